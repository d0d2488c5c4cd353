package main

import (
	"context"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"

	"github.com/droverhq/drover/cmd/drover/internal/ptytest"
	"github.com/droverhq/drover/control/api"
	"github.com/droverhq/drover/dataset"
)

func TestDrain(t *testing.T) {
	f := theWorld()
	home := f.nodes[0].ID
	other := api.Node{Node: dataset.Node{ID: uuid.New(), Name: "host-z"}}
	f.nodes = append(f.nodes, other)
	f.volumes, f.byVolume, f.fail = nil, map[string]api.Outcome{}, map[string]error{}
	for _, name := range []string{"a", "b", "busy", "gone", "theirs"} {
		v := api.Volume{Dataset: dataset.Dataset{ID: uuid.New(), Volume: name, Home: home}}
		op := dataset.Operation{ID: uuid.New(), Kind: dataset.OpMove, Volume: name, Node: other.ID, State: dataset.OpDone}
		switch name {
		case "busy":
			op.State, op.Problem = dataset.OpFailed, &dataset.Problem{Code: "in_use", Message: "volume busy is in use on node host-a by c1"}
		case "gone":
			f.fail["Submit "+v.ID.String()] = dataset.Errorf(dataset.ErrNotFound, "no such volume")
		case "theirs":
			v.Home = other.ID
		}
		f.volumes, f.byVolume[v.ID.String()] = append(f.volumes, v), api.Outcome{Operation: &op}
	}
	c := newConsole(f)
	if status := c.run(t, "node", "drain", f.nodes[0].Name); status != 1 {
		t.Errorf("status %d", status)
	}
	want := `node host-a is cordoned: nothing new is placed on it (drover node cordon --off host-a ends that)
volume gone stays: no such volume
volume a is on node host-z
volume b is on node host-z
volume busy stays: volume busy is in use on node host-a by c1
`
	if got := c.out.String(); got != want {
		t.Errorf("it said\n%s", got)
	}
	if got := c.err.String(); !strings.Contains(got, "2 of 4 volumes stay on node host-a") {
		t.Errorf("and at last %q", got)
	}
	if calls := strings.Join(f.asked, "\n"); strings.Count(calls, `"kind":"move"`) != 4 || !strings.Contains(calls, `"draining":true`) || strings.Contains(calls, "fenced") {
		t.Errorf("asked\n%s", calls)
	}

	// The last line names the volumes whose only replica is still there.
	replica := func(node uuid.UUID) api.CopyDetail {
		return api.CopyDetail{Copy: dataset.Copy{Node: node, Kind: dataset.CopyReplica}}
	}
	f.volumes[4].CopyDetails = []api.CopyDetail{replica(home)}
	two := api.Volume{Dataset: dataset.Dataset{ID: uuid.New(), Volume: "two", Home: other.ID}}
	two.CopyDetails = []api.CopyDetail{replica(home), replica(uuid.New())}
	f.volumes = append(f.volumes, two)

	// The other volumes move after the operator confirmed that the node is fenced.
	f.asked, f.fail = nil, nil
	for id, out := range f.byVolume {
		out.Operation.State, out.Operation.Problem = dataset.OpDone, nil
		f.byVolume[id] = out
	}
	c = newConsole(f)
	if status := c.run(t, "node", "drain", f.nodes[0].Name, "--fenced", "--yes"); status != 0 || !strings.Contains(
		c.out.String(), "node host-a has no volumes left, but the only replica of theirs: it is removed once "+
			"another node has one (drover volume inspect theirs)\n") {
		t.Errorf("status %d: %s%s", status, c.out.String(), c.err.String())
	}
	if calls := strings.Join(f.asked, "\n"); strings.Count(calls, `"force":true,"fenced":"host-a"`) != 4 {
		t.Errorf("asked\n%s", calls)
	}
}

// drainWithLoss returns a world in which a drain with --fenced of host-a moves volume db to host-z, and the volume loses
// the data of the last two minutes.
func drainWithLoss() *fake {
	f := theWorld()
	other := api.Node{Node: dataset.Node{ID: uuid.New(), Name: "host-z"}}
	f.nodes = append(f.nodes, other)
	v := f.volumes[0]
	v.Volume, v.Home, f.volumes = "db", f.nodes[0].ID, []api.Volume{v}
	op := dataset.Operation{
		ID: uuid.New(), Kind: dataset.OpMove, Volume: "db", Node: other.ID, State: dataset.OpDone,
		Loss: &dataset.Loss{Taken: now.Add(-2 * time.Minute)},
	}
	f.byVolume = map[string]api.Outcome{v.ID.String(): {Operation: &op}}
	return f
}

// TestDrainNamesLosses: with --fenced, the drain and its dry run say since when each volume loses data.
func TestDrainNamesLosses(t *testing.T) {
	f := drainWithLoss()
	const loss = "node host-z, without the data written since 2026-03-01 11:58:00 UTC (2 minutes ago)\n"
	for want, flags := range map[string][]string{
		"dry run: volume db would move to " + loss: {"--dry-run"},
		"volume db is on " + loss:                  nil,
		`"loses_since": "2026-03-01T11:58:00Z"`:    {"-o", "json"},
	} {
		c := newConsole(f)
		status := c.run(t, append([]string{"node", "drain", "host-a", "--fenced", "--yes"}, flags...)...)
		if status != 0 || !strings.Contains(c.out.String(), want) {
			t.Errorf("%v: status %d: %s%s", flags, status, c.out.String(), c.err.String())
		}
	}
}

// A drain with --fenced shows which data is lost, and changes nothing before the user has confirmed it. While it waits
// for the confirmation, the first signal ends the command.
func TestDrainAsks(t *testing.T) {
	f := drainWithLoss()
	const loss = "volume db continues on node host-z, without the data written since 2026-03-01 11:58:00 UTC"
	for typed, want := range map[string]int{"": 2, "host-z\n": 1, "y\n": 1, "host-a\n": 0} {
		c := newConsole(f)
		f.asked = nil
		if typed != "" {
			screen := ptytest.Open(t)
			screen.Type(t, typed)
			c.In = screen.File
		}
		handled, signals := false, c.Signals
		c.Signals = func(ctx context.Context) (context.Context, context.CancelFunc) { handled = true; return signals(ctx) }
		status := c.run(t, "node", "drain", "host-a", "--fenced")
		if handled != (want == 0) {
			t.Errorf("typed %q: the signals are handled: %v", typed, handled)
		}
		did := slices.ContainsFunc(f.asked, func(line string) bool { return !onlyAsks(line) })
		if status != want || did != (want == 0) || !strings.Contains(c.err.String(), loss) {
			t.Errorf("typed %q: status %d, asked %v: %s", typed, status, f.asked, c.err.String())
		}
	}
}

// TestDrainOfTheOnlyNode is refused, and changes nothing. A removed node is not another one. A dry run says the same.
func TestDrainOfTheOnlyNode(t *testing.T) {
	for _, flags := range [][]string{nil, {"--dry-run"}, {"--fenced"}, {"-o", "json"}} {
		f := theWorld()
		f.nodes = append(f.nodes, api.Node{Node: dataset.Node{ID: uuid.New(), Name: "former", Removed: now}})
		c := newConsole(f)
		status := c.run(t, append([]string{"node", "drain", "host-a"}, flags...)...)
		if status != 1 || c.out.Len() > 0 || len(f.asked) > 0 || !strings.Contains(c.err.String(), "host-a: it is the only node") {
			t.Errorf("%v: status %d, asked %v: %s%s", flags, status, f.asked, c.out.String(), c.err.String())
		}
	}
}

func TestDrainForPrograms(t *testing.T) {
	f := theWorld()
	f.nodes = append(f.nodes, api.Node{Node: dataset.Node{ID: uuid.New(), Name: "host-z"}})
	v := f.volumes[0]
	v.Home = f.nodes[0].ID
	f.volumes = []api.Volume{v}
	f.fail = map[string]error{"Submit " + v.ID.String(): dataset.Errorf(dataset.ErrOffline, "there is no other node")}
	c := newConsole(f)
	want := `[
  {
    "volume": "` + v.Volume + `",
    "problem": {
      "code": "offline",
      "message": "there is no other node"
    }
  }
]
`
	if status := c.run(t, "node", "drain", "-o", "json", f.nodes[0].Name); status != 1 || c.out.String() != want {
		t.Errorf("status %d: %s", status, c.out.String())
	}
}
