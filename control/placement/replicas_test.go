package placement_test

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/uuid"

	"github.com/droverhq/drover/control/api"
	"github.com/droverhq/drover/control/controltest"
	"github.com/droverhq/drover/control/placement"
	"github.com/droverhq/drover/control/record"
	"github.com/droverhq/drover/dataset"
	"github.com/droverhq/drover/test/require"
)

// copies returns the kinds of the copies of a dataset by the names of their nodes.
func copies(e *controltest.Control, id uuid.UUID, agents map[string]*controltest.Agent) map[string]dataset.CopyKind {
	e.Helper()
	out := map[string]dataset.CopyKind{}
	for name, a := range agents {
		for _, k := range a.MustSync(0).Copies {
			if k.Dataset == id {
				out[name] = k.Kind
			}
		}
	}
	e.CheckInvariants()
	return out
}

// A surplus replica stays while the home reports that it cannot open the volume.
func TestReplicasTooManyStay(t *testing.T) {
	e := controltest.New(t)
	a, b, c := e.NewAgent("alpha"), e.NewAgent("beta"), e.NewAgent("gamma")
	e.AddReplicaProfile(1)
	d := a.MustCreate("db@safe")
	e.OK(e.Ledger.Update(e.Ctx, func(t *record.Tx) error {
		d, err := t.Dataset(d.ID)
		for _, n := range []*controltest.Agent{b, c} {
			k := dataset.Copy{Dataset: d.ID, Node: n.ID, Pool: n.LocalPools[0].ID, Kind: dataset.CopyReplica, Epoch: 1, Snapshot: uuid.New(), Taken: controltest.Start}
			err = errors.Join(err, record.PutCopy(t, &d, k))
		}
		return err
	}))
	for _, l := range []struct {
		problem string
		going   int
	}{{"it is not in the pool", 0}, {"", 1}} {
		a.ReportOpen(d, l.problem)
		e.OK(e.CopyKeeper.Maintain(e.Ctx, e.MustVolume("db").Dataset))
		going := 0
		for _, kind := range copies(e, d.ID, map[string]*controltest.Agent{"beta": b, "gamma": c}) {
			if kind == dataset.CopyCondemned {
				going++
			}
		}
		if going != l.going {
			t.Errorf("%q: %d are going", l.problem, going)
		}
	}
}

func TestReplicas(t *testing.T) {
	e := controltest.New(t)
	a, b, c, x := e.NewAgent("alpha"), e.NewAgent("beta"), e.NewAgent("gamma"), e.NewAgent("delta")
	agents := map[string]*controltest.Agent{"alpha": a, "beta": b, "gamma": c, "delta": x}
	e.AddReplicaProfile(1)
	e.EditNode(b, func(n *dataset.Node) { n.Cordoned = true })
	// The pool with the most free space is chosen.
	for node, free := range map[*controltest.Agent]dataset.Size{c: 30 * dataset.GiB, x: 50 * dataset.GiB} {
		h := api.Heartbeat{Incarnation: node.Incarnation, Pools: []dataset.PoolStatus{{ID: node.LocalPools[0].ID, Online: true, Size: 100 * dataset.GiB, Free: free}}}
		e.OK(e.Heartbeat(e.Ctx, node.ID, h))
	}
	d := a.MustCreate("db@safe")
	e.Round()
	got := copies(e, d.ID, agents)
	if len(got) != 1 || got["delta"] != dataset.CopyReplica {
		t.Fatalf("%v", got)
	}
	x.ReportCopyTaken(d, controltest.Start)

	// Refreshed replicas are reported all the time, and recorded seldom.
	writes := e.Spy.Committed()
	for i := range 20 {
		x.ReportCopyTaken(d, controltest.Start.Add(time.Duration(i)*30*time.Second))
	}
	if n := e.Spy.Committed() - writes; n > 1 {
		t.Errorf("%d transactions for 20 refreshes in 10 minutes", n)
	}
	op := *e.MustSubmit(controltest.ForcedMove("db", "delta", "alpha")).Operation
	if want := controltest.Start.Add(19 * 30 * time.Second); !op.Loss.Taken.Equal(want) {
		t.Errorf("said to be lost since %s, not %s", op.Loss.Taken, want)
	}
	e.OK(e.CancelOperation(e.Ctx, op.ID.String()))

	// A drained node keeps its copy until another node has a complete one, and no longer.
	e.Round()
	e.OK(e.Cordon(e.Ctx, x.ID, api.Cordoned{Cordoned: true, Draining: true}))
	d = e.MustVolume("db").Dataset
	e.Round() // in the next round, not only in the next full round
	if got = copies(e, d.ID, agents); len(got) != 2 || got["gamma"] != dataset.CopyReplica || got["delta"] != dataset.CopyReplica {
		t.Fatalf("%v", got)
	}
	e.Round()
	if got = copies(e, d.ID, agents); got["delta"] != dataset.CopyReplica {
		t.Fatalf("the last complete copy is removed: %v", got)
	}
	c.ReportCopyTaken(d, controltest.Start)
	e.Round()
	if got = copies(e, d.ID, agents); got["gamma"] != dataset.CopyReplica || got["delta"] != dataset.CopyCondemned {
		t.Fatalf("%v", got)
	}
	if len(e.Failures) != 0 {
		t.Error(e.Failures)
	}

	// Fewer replicas are wanted: none.
	e.MustSubmit(api.Request{Kind: dataset.OpUpdate, Volume: "db", Profile: "silver"})
	e.Round()
	if got = copies(e, d.ID, agents); got["gamma"] != dataset.CopyCondemned {
		t.Fatalf("%v", got)
	}
}

// The copy that a move leaves becomes the replica, which needs the least data to be sent.
func TestReplicaOfWhatWasLeft(t *testing.T) {
	e := controltest.New(t)
	a, b, c := e.NewAgent("alpha"), e.NewAgent("beta"), e.NewAgent("gamma")
	agents := map[string]*controltest.Agent{"alpha": a, "beta": b, "gamma": c}
	a.MustCreate("db@silver")
	d := e.MustMove("db", a, b, "beta")
	e.AddReplicaProfile(1)
	e.MustSubmit(api.Request{Kind: dataset.OpUpdate, Volume: "db", Profile: "safe"})
	e.Round()
	if got := copies(e, d.ID, agents); len(got) != 1 || got["alpha"] != dataset.CopyReplica {
		t.Fatalf("%v", got)
	}
	if c := a.MustSync(0).Copies[0]; !c.Expires.IsZero() || c.RunTime != 0 {
		t.Errorf("the replica has the time at which the copy would have been removed: %+v", c)
	}
	e.AdvanceClock(2 * placement.LeftCopyRetention)
	e.Round()
	if got := copies(e, d.ID, agents); got["alpha"] != dataset.CopyReplica {
		t.Fatalf("a replica expires: %v", got)
	}
	// A move to the node of the replica leaves a copy at the old home, which is refreshed as a replica from then on.
	e.MustMove("db", b, a, "alpha")
	e.Round()
	if got := copies(e, d.ID, agents); len(got) != 1 || got["beta"] != dataset.CopyReplica {
		t.Fatalf("%v", got)
	}
}

func TestReplicasThatNobodyCanKeep(t *testing.T) {
	e, a := controltest.OneNode(t)
	e.AddReplicaProfile(2)
	a.MustRefusePlan(controltest.Create("db@safe"), dataset.ErrUnsupported, "safe", "no other node")
	b, c := e.NewAgent("beta"), &controltest.Agent{Control: e, ID: uuid.New(), Incarnation: uuid.New()}
	c.LocalPools = []dataset.Pool{{ID: uuid.New(), Name: "plain", Backend: "dir", Capabilities: controltest.DirCapabilities, Path: "/c"}}
	c.MustRegister("gamma")
	a.MustRefusePlan(controltest.Create("db@safe"), dataset.ErrUnsupported, "pool plain of node gamma", "enforce a size")
	a.MustCreate("db@silver")
	e.MustRefuse(api.Request{Kind: dataset.OpUpdate, Volume: "db", Profile: "safe"}, dataset.ErrUnsupported, "gamma")

	// The replicas that can be kept are kept, and the shortage is reported.
	e.NewAgent("delta")
	d := a.MustCreate("db2@safe")
	if got := e.MustVolume("db2").Copies; len(got) != 2 || slices.Contains(got, d.Home) {
		t.Errorf("%v", got)
	}
	e.EditNode(b, func(n *dataset.Node) { n.Cordoned, n.Draining = true, true })
	e.Round()
	if got := e.MustVolume("db2").Copies; len(got) != 2 {
		t.Errorf("%d copies", len(got))
	}
	if len(e.Failures) != 1 {
		t.Fatalf("%v", e.Failures)
	}
	controltest.Refused(t, e.Failures[0], dataset.ErrUnsupported, "db2", "gamma", "enforce a size")
	e.EditNode(b, func(n *dataset.Node) { n.Cordoned, n.Draining = false, false })
	e.Memory.FullDue = e.Clock.Now()
	e.Round()
	if len(e.Failures) != 1 {
		t.Errorf("%v", e.Failures)
	}
}

// A node that is cordoned, or removed, after it was chosen for a replica gets none.
func TestReplicaOnANodeThatIsToGo(t *testing.T) {
	for name, change := range map[string]func(e *controltest.Control, b *controltest.Agent) error{
		"cordoned": func(e *controltest.Control, b *controltest.Agent) error {
			_, err := e.Cordon(e.Ctx, b.ID, api.Cordoned{Cordoned: true})
			return err
		},
		"removed": func(e *controltest.Control, _ *controltest.Agent) error {
			_, err := e.RemoveNode(e.Ctx, "beta", api.NodeRemoval{})
			return err
		},
	} {
		for _, late := range []bool{false, true} {
			nodeThatIsToGo(t, name, late, change)
		}
	}
}

func nodeThatIsToGo(t *testing.T, name string, late bool, change func(e *controltest.Control, b *controltest.Agent) error) {
	t.Run(fmt.Sprintf("%s late %t", name, late), func(t *testing.T) {
		e := controltest.New(t)
		e.AddReplicaProfile(1)
		a, b := e.NewAgent("alpha"), e.NewAgent("beta")
		d := a.MustCreate("db@silver")
		d.Profile.Replicas.Count = 1
		e.OK(e.Ledger.Update(e.Ctx, func(t *record.Tx) error { return errors.Join(controltest.ErrorOf(t.Dataset(d.ID)), t.PutDataset(d)) }))
		changes := sync.OnceFunc(func() {
			e.OK(change(e, b))
		})
		if late {
			e.Spy.Before(changes)
		} else {
			e.Spy.OnGet = func(key string) {
				if key == record.NodeKey(b.ID) {
					e.Spy.OnGet = nil
					changes()
				}
			}
		}
		err := e.CopyKeeper.Maintain(e.Ctx, e.MustVolume("db").Dataset)
		controltest.Refused(t, err, dataset.ErrUnsupported, "replicas on more nodes")
		if got := e.CheckInvariants().Datasets[d.ID]; len(got.Copies) != 0 {
			t.Errorf("%v", got.Copies)
		}
	})
}

// A volume was moved away from a node while the node was being removed. The node is not forgotten before the copy
// that the move left there.
func TestRemovedNodeLeavesNoCopies(t *testing.T) {
	e, a, b := controltest.TwoNodes(t)
	a.MustCreate("db@gold")
	e.MustMove("db", a, b, "beta")
	op := *e.MustSubmit(controltest.ForcedMove("db", "alpha", "beta")).Operation
	looks := 0
	e.Spy.OnList = func(prefix string) {
		if prefix != record.HomePrefix(b.ID) {
			return
		}
		if looks++; looks == 2 { // once it is cleared, and before it is forgotten
			a.MustCommit(op)
		}
	}
	e.OK(e.RemoveNode(e.Ctx, "beta", api.NodeRemoval{Force: true}))
	e.Spy.OnList = nil
	if v := e.MustVolume("db"); v.Home != a.ID || len(v.Copies) != 0 {
		t.Errorf("%+v", v.Dataset)
	}
	e.CheckInvariants()
}

// The volume shows why a replica was never made, as far as its node reported it.
func TestReplicaThatNeverCame(t *testing.T) {
	e, a, b := controltest.TwoNodes(t)
	e.AddReplicaProfile(1)
	d := a.MustCreate("db@safe")
	e.Round()
	says := func(want string) {
		t.Helper()
		v, err := e.Volume(e.Ctx, "db")
		if err != nil || len(v.CopyDetails) != 1 || v.CopyDetails[0].Problem != want {
			t.Errorf("%+v, %v; want %q", v.CopyDetails, err, want)
		}
	}
	says("")
	pool := b.LocalPools[0].ID
	b.ReportFacts(func(f *dataset.Facts) { f.Pools = f.Pools[1:] })
	says("its node does not have pool " + pool.String() + " (drover doctor, on that node)")
	e.OK(e.Heartbeat(e.Ctx, b.ID, api.Heartbeat{Incarnation: b.Incarnation, Pools: []dataset.PoolStatus{{ID: pool, Reason: "its disk is absent"}}}))
	says("its pool is offline: its disk is absent")
	b.ReportCopyTaken(d, controltest.Start)
	says("")
}

// shortageReads are the reads of a round that checks whether a node can take a replica by now.
const shortageReads = 6

// A volume that had too few nodes for its replicas when it was created gets them as soon as a node can take one, and
// not only with the next full round: no record of the volume changes then. As long as no node changes, a round reads
// none of the volume's keys.
func TestReplicasComeWithTheNode(t *testing.T) {
	for name, c := range map[string]struct {
		away, back func(e *controltest.Control, b *controltest.Agent)
	}{
		"cordoned": {
			func(e *controltest.Control, b *controltest.Agent) {
				e.EditNode(b, func(n *dataset.Node) { n.Cordoned = true })
			},
			func(e *controltest.Control, b *controltest.Agent) {
				e.EditNode(b, func(n *dataset.Node) { n.Cordoned = false })
			},
		},
		"its pool is offline": {
			func(_ *controltest.Control, b *controltest.Agent) { b.ReportOnline(false) },
			func(_ *controltest.Control, b *controltest.Agent) { b.ReportOnline(true) },
		},
	} {
		t.Run(name, func(t *testing.T) {
			e := controltest.New(t)
			e.AddReplicaProfile(1)
			a, b := e.NewAgent("alpha"), e.NewAgent("beta")
			agents := map[string]*controltest.Agent{"beta": b}
			op := a.MustPlan(controltest.Create("db@safe"))
			c.away(e, b) // after it was planned
			d := *a.MustCommit(op).Dataset
			e.Failures = nil
			e.Round()
			if len(copies(e, d.ID, agents)) > 0 || len(e.Failures) != 1 {
				t.Fatalf("%v has a copy; said: %v", copies(e, d.ID, agents), e.Failures)
			}
			if got := shownShortage(t, e); !strings.Contains(got, "node beta") && !strings.Contains(got, "beta/") {
				t.Errorf("volume inspect and status say %q; want the reason, and node beta", got)
			}
			e.Failures = nil
			e.Round()
			e.Spy.Counted()
			e.Round()
			if reads, txns, _ := e.Spy.Counted(); reads > shortageReads || txns > 0 {
				t.Errorf("a round in which no node changed: %d reads, %d transactions", reads, txns)
			}
			c.back(e, b)
			e.Round()
			if got := copies(e, d.ID, agents); got["beta"] != dataset.CopyReplica {
				t.Errorf("the node is back, and has %v", got)
			}
			if got := shownShortage(t, e); got != "" {
				t.Errorf("the volume has its replica, and is shown with a shortage: %q", got)
			}
			e.Round()
			e.Spy.Counted()
			e.Round()
			if reads, _, _ := e.Spy.Counted(); reads > 0 {
				t.Errorf("%d reads, though nothing is short any more", reads)
			}
		})
	}
}

// shownShortage returns the shortage of replicas that the volume db is shown with, alone and in the list for status.
func shownShortage(t *testing.T, e *controltest.Control) string {
	t.Helper()
	v, err := e.Service.Volume(t.Context(), "db")
	require.NoError(t, err)
	list, err := e.Service.VolumeSummaries(t.Context(), api.Page{Health: true})
	if err != nil || len(list.Items) != 1 {
		t.Fatal(list, err)
	}
	if got := list.Items[0].ReplicaShortage; got != v.ReplicaShortage {
		t.Errorf("the list has the shortage %q, and the volume %q", got, v.ReplicaShortage)
	}
	return v.ReplicaShortage
}
