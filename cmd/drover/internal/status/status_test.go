package status

import (
	"context"
	"errors"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/droverhq/drover/cmd/drover/internal/cli"
	"github.com/droverhq/drover/control/api"
	"github.com/droverhq/drover/control/condition"
	"github.com/droverhq/drover/dataset"
)

// TestManyVolumesUseTheLastExamination: doctor reads each record of each pool. So on a host with many volumes, status
// does not wait for doctor, unless there is no recent examination of the host.
func TestManyVolumesUseTheLastExamination(t *testing.T) {
	now := time.Date(2026, 11, 25, 9, 0, 0, 0, time.UTC)
	for name, c := range map[string]struct {
		volumes int
		edit    func(*Cluster)
		want    bool
	}{
		"few volumes":            {volumes: manyVolumes},
		"many volumes":           {volumes: manyVolumes + 1, want: true},
		"those of other nodes":   {volumes: manyVolumes + 1, edit: func(c *Cluster) { c.Local = "beta" }},
		"volumes unknown":        {volumes: manyVolumes + 1, edit: func(c *Cluster) { c.VolumesUnknown = true }},
		"health is not known":    {volumes: manyVolumes + 1, edit: func(c *Cluster) { c.Health = nil }},
		"node is dead":           {volumes: manyVolumes + 1, edit: func(c *Cluster) { c.Health.Nodes[0].Live = false }},
		"nothing examined":       {volumes: manyVolumes + 1, edit: func(c *Cluster) { c.Health.Nodes[0].Found = nil }},
		"old examination":        {volumes: manyVolumes + 1, edit: func(c *Cluster) { c.Health.Nodes[0].Found.Examined = now.Add(-2 * time.Minute) }},
		"control without a node": {volumes: manyVolumes + 1, edit: func(c *Cluster) { c.Local = "" }},
	} {
		known := Cluster{Local: "alpha", Volumes: make([]api.VolumeSummary, c.volumes), Health: &api.ClusterHealth{
			Nodes: []api.NodeHealth{{Name: "alpha", Live: true, Found: &api.NodeFindings{Examined: now.Add(-10 * time.Second)}}},
		}}
		for i := range known.Volumes {
			known.Volumes[i].Node = "alpha"
		}
		if c.edit != nil {
			c.edit(&known)
		}
		if got := knowsHost(known, now); got != c.want {
			t.Errorf("%s: knowsHost = %t, want %t", name, got, c.want)
		}
	}
}

// losesQuorum is a server whose store fails after its state was read: the lists that it is asked for next fail.
type losesQuorum struct {
	cli.Remote
	lost bool // the store has failed before the first request
	read chan struct{}
	asks int
}

func (r *losesQuorum) ClusterHealth(context.Context) (api.ClusterHealth, error) {
	r.asks++
	var h api.ClusterHealth
	if r.asks > 1 || r.lost {
		h.Store.Findings = []api.Finding{condition.StoreUnavailable.Finding("store", "", "Consul has no leader")}
	}
	if r.asks == 1 {
		close(r.read)
	}
	return h, nil
}

func (r *losesQuorum) NodeList(context.Context, string) ([]api.Node, error) {
	<-r.read
	return nil, dataset.Errorf(dataset.ErrUnavailable, "the store does not answer")
}

func (r *losesQuorum) Version(context.Context) (v api.Version, err error) { return v, nil }
func (r *losesQuorum) Pools(context.Context) ([]api.Pool, error)          { return nil, nil }
func (r *losesQuorum) Doctor(context.Context) ([]api.Finding, error)      { return nil, nil }
func (r *losesQuorum) VolumeSummaries(context.Context, api.Page) (l api.List[api.VolumeSummary], err error) {
	return l, nil
}

func (r *losesQuorum) Operations(context.Context, api.Page) (l api.List[dataset.Operation], err error) {
	return l, nil
}

// TestStoreIsAskedAgainAfterAFailedList: a store that fails while status reads the lists is named as the cause.
func TestStoreIsAskedAgainAfterAFailedList(t *testing.T) {
	for _, lost := range []bool{false, true} {
		c := &losesQuorum{lost: lost, read: make(chan struct{})}
		r := assess(t.Context(), newApp(untilListed), c, false)
		var texts []string
		for _, f := range r.Findings {
			if f.Subject == "store" {
				texts = append(texts, f.Text)
			}
		}
		if slices.ContainsFunc(r.Findings, func(f api.Finding) bool { return f.Subject == "server" }) {
			t.Errorf("the cause is reported more than once: %+v", r.Findings)
		}
		if strings.Join(texts, "; ") != "Consul has no leader; nothing can be created, moved or deleted (mounted volumes keep working)" {
			t.Errorf("findings about the store: %q", texts)
		}
		if want := map[bool]int{false: 2, true: 1}[lost]; c.asks != want {
			t.Errorf("the state of the store was read %d times, want %d", c.asks, want)
		}
	}
}

// TestCauseIsReportedOnce: lists that fail because control is unreachable have one finding, and other errors have theirs.
func TestCauseIsReportedOnce(t *testing.T) {
	unavailable := func(what string) error {
		return dataset.Errorf(dataset.ErrUnavailable, "%s: control does not answer", what)
	}
	failed := []error{unavailable("pools"), errors.New("damaged"), unavailable("nodes"), unavailable("volumes")}
	finding := []api.Finding{condition.StoreUnavailable.Finding("store", "", "no leader")}
	store := &api.ClusterHealth{Store: api.StoreHealth{Findings: finding}}
	damaged := &api.ClusterHealth{Findings: []api.Finding{condition.StoreUnreadable.Finding("store", "", "nodes", "damaged")}}
	for name, c := range map[string]struct {
		health *api.ClusterHealth
		doctor []api.Finding
		want   string
	}{
		"health unknown":   {nil, nil, "damaged; nodes: control does not answer"},
		"store is well":    {&api.ClusterHealth{}, nil, "damaged; nodes: control does not answer"},
		"store is named":   {store, nil, "damaged"},
		"other finding":    {damaged, nil, "damaged; nodes: control does not answer"},
		"control is named": {nil, []api.Finding{condition.ControlUnreachable.Finding("control", "", "timeout")}, "damaged"},
		"control responds": {nil, []api.Finding{condition.ControlResponds.Finding("control", "", 1)}, "damaged; nodes: control does not answer"},
	} {
		var texts []string
		for _, err := range causes(c.health, c.doctor, failed) {
			texts = append(texts, err.Error())
		}
		if got := strings.Join(texts, "; "); got != c.want {
			t.Errorf("%s: %q, want %q", name, got, c.want)
		}
	}
}

// newApp returns an App whose pauses are those of sleep.
func newApp(sleep func(context.Context, time.Duration) error) *cli.App {
	return &cli.App{Getenv: func(string) string { return "" }, Now: time.Now, Sleep: sleep}
}

// untilListed is a pause that the lists of the server end.
func untilListed(ctx context.Context, _ time.Duration) error {
	<-ctx.Done()
	return ctx.Err()
}

// slowLists is a server whose list of nodes comes only after it has examined its host.
type slowLists struct {
	losesQuorum
	examined chan struct{}
	examines int
}

func (s *slowLists) NodeList(context.Context, string) ([]api.Node, error) {
	<-s.examined
	return nil, dataset.Errorf(dataset.ErrUnavailable, "control does not answer")
}

func (s *slowLists) Doctor(context.Context) ([]api.Finding, error) {
	s.examines++
	close(s.examined)
	return []api.Finding{condition.ControlUnreachable.Finding("control", "", "timeout")}, nil
}

// TestHostIsExaminedWhileListsAreSlow: if control does not answer, its lists fail only after their time limit. The host
// is examined meanwhile, and only once.
func TestHostIsExaminedWhileListsAreSlow(t *testing.T) {
	s := &slowLists{losesQuorum{read: make(chan struct{})}, make(chan struct{}), 0}
	var pause time.Duration
	r := assess(t.Context(), newApp(func(_ context.Context, d time.Duration) error { pause = d; return nil }), s, false)
	if !slices.ContainsFunc(r.Findings, condition.ControlUnreachable.Is) || s.examines != 1 || pause != ExamineAfter {
		t.Errorf("%d examinations after %v, findings %+v", s.examines, pause, r.Findings)
	}
}

// The findings of level ok do not name nodes, pools and volumes that are unreachable or have another finding.
func TestFine(t *testing.T) {
	c := Cluster{
		Local: "a",
		Nodes: []api.Node{
			{Node: dataset.Node{Name: "a", Version: "1"}, Live: true}, {Node: dataset.Node{Name: "b"}, Live: true},
			{Node: dataset.Node{Name: "lost"}}, {Node: dataset.Node{Name: "gone", Removed: time.Unix(1, 0)}, Live: true},
		},
		Volumes: []api.VolumeSummary{{Volume: "db"}, {Volume: "web"}},
		Doctor:  []api.Finding{{Level: "ok", Subject: "root", Text: "writable"}, {Level: "error", Subject: "guard", Text: "off"}},
	}
	list := []api.Finding{
		{Level: "warning", Subject: "node b", Text: "clock"}, {Level: "info", Subject: "node a", Text: "cordoned"},
		{Level: "error", Subject: "volume db", Text: "full"},
	}
	var got []string
	for _, f := range Fine(c, list, time.Unix(100, 0)) {
		got = append(got, f.Level+" "+f.Subject+": "+f.Text)
	}
	want := []string{
		"ok node a: reachable, version 1", "ok volumes: without a problem: 1 of 2", "ok operations: in progress: 0",
		"ok root: writable",
	}
	if !slices.Equal(got, want) {
		t.Errorf("got %q, want %q", got, want)
	}
}

// TestDetail: the detail of a move names the nodes, also while the move runs.
func TestDetail(t *testing.T) {
	nodes := "from node host-a to node host-b"
	for want, op := range map[string]dataset.Operation{
		nodes: {Kind: dataset.OpMove, State: dataset.OpPending, Change: nodes},
		nodes + ": copy 50% (1MiB of 2MiB)": {
			Kind: dataset.OpMove, State: dataset.OpRunning, Change: nodes,
			Progress: dataset.Progress{Step: "copy", Done: 1 << 20, Total: 2 << 20},
		},
		"copy": {
			Kind: dataset.OpMove, State: dataset.OpRunning, Progress: dataset.Progress{Step: "copy"},
		},
		"it is in use": {
			Kind: dataset.OpMove, State: dataset.OpFailed, Change: nodes, Problem: &dataset.Problem{Message: "it is in use"},
		},
	} {
		if got := detail(op); got != want {
			t.Errorf("%s, want %s", got, want)
		}
	}
}
