package main

import (
	"context"
	"errors"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/uuid"

	"github.com/droverhq/drover/cmd/drover/internal/nodes"
	"github.com/droverhq/drover/cmd/drover/internal/ptytest"
	"github.com/droverhq/drover/control/api"
	"github.com/droverhq/drover/dataset"
	"github.com/droverhq/drover/guard"
	"github.com/droverhq/drover/internal/linux/mount"
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

// fenceFake is a guard that records the requests.
type fenceFake struct {
	list []guard.Entry
	did  []string
	fail error
	next []guard.Entry // replaces list after the first request for the status, if it is not nil
	back bool          // the agent opens the dataset again after its release
}

func (f *fenceFake) Status(context.Context) (guard.Status, error) {
	st := guard.Status{Datasets: f.list}
	if f.next != nil {
		f.list, f.next = f.next, nil
	}
	return st, nil
}

func (f *fenceFake) Close() error { return nil }

// guarded returns one dataset in each state, an hour after the boot.
func guarded() (list []guard.Entry) {
	states := []guard.State{guard.StateArmed, guard.StateFencing, guard.StateFenced, guard.StateSuperseded, guard.StateRebooted}
	for i, state := range states {
		e := guard.Entry{Volume: "db-" + string(state), Epoch: uint64(i + 1), State: state, Deadline: time.Hour + 5800*time.Millisecond}
		if i > 0 {
			e.Deadline = time.Hour - time.Duration(i)*90*time.Second
		}
		e.Dataset = uuid.NewSHA1(idDB, []byte(state))
		list = append(list, e)
	}
	return list
}

func (f *fenceFake) Supersede(_ context.Context, id uuid.UUID, epoch uint64) (guard.Entry, error) {
	f.did = append(f.did, "supersede")
	for i, e := range f.list {
		if e.Dataset == id && e.Epoch == epoch {
			f.list[i].State = guard.StateSuperseded
			e = f.list[i]
			if f.back {
				f.list[i].State = guard.StateArmed
			}
			return e, f.fail
		}
	}
	return guard.Entry{}, dataset.ErrNotFound
}

func (f *fenceFake) Dismiss(context.Context, uuid.UUID, uint64) error {
	f.did = append(f.did, "dismiss")
	return nil
}

func (f *fenceFake) unmount(path string) error {
	f.did = append(f.did, "unmount "+path)
	if path == "/gone" {
		return mount.ErrNotMounted
	}
	return nil
}

// Release does these steps in this order: it kills the processes that may write, unmounts the dataset, and makes the
// guard forget it. If the dataset is not fenced, or a process does not end, it stops there.
func TestGuardRelease(t *testing.T) {
	entry := func(state guard.State) guard.Entry {
		e := guard.Entry{Volume: "db", Epoch: 4, State: state}
		e.Dataset, e.Paths = uuid.New(), []string{"/mnt/db", "/gone"}
		return e
	}
	one, two := entry(guard.StateFenced), entry(guard.StateFenced)
	all := []string{"supersede", "unmount /mnt/db", "unmount /gone", "dismiss"}
	for name, c := range map[string]struct {
		list []guard.Entry
		ref  string
		fail error
		want []string
		err  error
	}{
		"fenced":             {[]guard.Entry{one}, "db", nil, all, nil},
		"on its way":         {[]guard.Entry{entry(guard.StateFencing)}, "db", nil, all, nil},
		"by its UUID":        {[]guard.Entry{one, two}, strings.ToUpper(two.Dataset.String()), nil, all, nil},
		"asked for again":    {[]guard.Entry{entry(guard.StateSuperseded)}, "db", nil, all, nil},
		"two of that name":   {[]guard.Entry{one, two}, "db", nil, nil, dataset.ErrAmbiguous},
		"not fenced":         {[]guard.Entry{entry(guard.StateArmed)}, "db", nil, nil, dataset.ErrConflict},
		"not there":          {[]guard.Entry{one}, "web", nil, nil, dataset.ErrNotFound},
		"who does not end":   {[]guard.Entry{one}, "db", dataset.ErrInUse, []string{"supersede"}, dataset.ErrInUse},
		"of an earlier boot": {[]guard.Entry{entry(guard.StateRebooted)}, "db", nil, nil, dataset.ErrConflict},
	} {
		f := &fenceFake{list: slices.Clone(c.list), fail: c.fail}
		_, err := nodes.Release(t.Context(), f, f.unmount, c.ref)
		if !errors.Is(err, c.err) || !slices.Equal(f.did, c.want) {
			t.Errorf("%s: did %v, want %v; %v", name, f.did, c.want, err)
		}
	}
	for name, c := range map[string]struct {
		list []guard.Entry
		code int
		says string
	}{
		"fenced":     {[]guard.Entry{one}, 0, "dry run: would kill the processes that use volume db, and unmount it at /mnt/db, /gone"},
		"not fenced": {[]guard.Entry{entry(guard.StateArmed)}, 1, "it is armed, not fenced"},
		"not there":  {nil, 1, "the guard of this host does not know it"},
	} {
		con := newConsole(&fake{})
		con.guard.list = c.list
		code := con.run(t, "guard", "release", "db", "--dry-run")
		if text := con.out.String() + con.err.String(); code != c.code || !strings.Contains(text, c.says) || len(con.guard.did) > 0 {
			t.Errorf("dry run, %s: exit %d, %q, and did %v", name, code, text, con.guard.did)
		}
	}
	f := &fenceFake{list: []guard.Entry{one}, back: true}
	if _, err := nodes.Release(t.Context(), f, f.unmount, "db"); !errors.Is(err, dataset.ErrConflict) || !slices.Equal(f.did, all[:1]) {
		t.Errorf("opened again meanwhile: did %v; %v", f.did, err)
	}
	con := newConsole(&fake{})
	if code := con.run(t, "guard", "release", "db-fenced"); code == 0 || !strings.Contains(con.err.String(), "(use --yes): kills the "+
		"processes that use it on this host") {
		t.Errorf("without a word: exit %d, %s", code, con.err.String())
	}
}

// Without a guard, the commands fail at once with an error of one line. The client of an agent would wait for a guard
// that is being restarted.
func TestNoGuard(t *testing.T) {
	run := t.TempDir()
	for _, args := range [][]string{{"guard", "ls", "--run", run}, {"guard", "release", "db", "--yes", "--run", run}} {
		synctest.Test(t, func(t *testing.T) {
			c, began := newConsole(&fake{}), time.Now()
			c.Fencer = nodes.DialGuard
			code := c.run(t, args...)
			said := c.err.String()
			if code == 0 || strings.Count(said, "\n") != 1 || !strings.Contains(said, filepath.Join(run, "guard.sock")) || !strings.Contains(said, "check that drover guard runs") || c.out.Len() > 0 {
				t.Errorf("%v: exit %d, %q, %q", args, code, said, c.out.String())
			}
			if took := time.Since(began); took != 0 { // on this clock only waiting takes time
				t.Errorf("%v: it waits %v", args, took)
			}
		})
	}
}
