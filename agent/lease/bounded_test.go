package lease_test

import (
	"errors"
	"os/exec"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/sirupsen/logrus"
	logtest "github.com/sirupsen/logrus/hooks/test"

	"github.com/droverhq/drover/agent/agenttest"
	"github.com/droverhq/drover/agent/host"
	"github.com/droverhq/drover/agent/lease"
	"github.com/droverhq/drover/control/api"
	"github.com/droverhq/drover/dataset"
	"github.com/droverhq/drover/guard"
	"github.com/droverhq/drover/internal/clock"
	"github.com/droverhq/drover/test/require"
)

// AwaitForgotten waits until a guard does not have a dataset any more. The host is checked for the dataset first.
func AwaitForgotten(w *agenttest.Guard, id uuid.UUID) {
	w.T.Helper()
	agenttest.Await(w.T, func() bool { _, there := w.Entry(id); return !there })
}

// The guard has each mounted volume with failover auto from before its mount until after its unmount, with deadlines
// that renewals justify. It learns nothing of other volumes.
func TestGuardHasDatasetWhileMounted(t *testing.T) {
	t.Parallel()
	g := agenttest.NewBounded(t)
	d := g.NewReplicated("db")
	g.A.NewVolume("manual", map[string]string{"size": "320MiB"})
	path := g.A.MustMount("db@auto", "one")
	g.A.MustMount("manual", "x")
	e, there := g.GuardA.Entry(d.ID)
	if !there || e.State != guard.StateArmed || e.Epoch != d.Epoch || !e.Own || e.Policy != guard.PolicyKill || len(e.Paths) != 1 || e.Paths[0] != path || e.Filesystem.Root == "" {
		t.Errorf("%t, %+v", there, e)
	}
	for _, id := range []string{"two", "one"} { // another container, and docker cp into the first
		g.A.Fuse.Set(-1, false, nil)
		g.A.MustMount("db@auto", id)
		if acts := g.A.Fuse.Seen(); !slices.Contains(acts, "guard check") || slices.Contains(acts, "guard register") {
			t.Errorf("a mount of a mounted volume: %v", acts)
		}
	}
	g.A.MustUnmount("db@auto", "one")
	for last := e.Deadline; ; {
		e, _ := g.GuardA.Entry(d.ID)
		if renewed := g.LinkA.LastRenewed(); e.Deadline > renewed+agenttest.BoundSession*6/10 {
			t.Fatalf("a deadline of %v rests on a renewal at %v", e.Deadline, renewed)
		}
		if e.Deadline > last+2*agenttest.BoundSession/5 {
			break // the guard was fed several times
		}
	}
	g.A.MustUnmount("db@auto", "one")
	if _, there := g.GuardA.Entry(d.ID); !there {
		t.Error("the guard has forgotten a dataset that is still in use")
	}
	g.A.MustUnmount("db@auto", "two")
	AwaitForgotten(g.GuardA, d.ID)
	if list, err := g.A.Config.State.List(t.Context(), "enrolled/"+d.ID.String()+"/"+g.B.Node().String(), "", 0); err != nil || len(list) != 1 {
		t.Errorf("the node that pulled it is not on disk: %v, %v", list, err)
	}
	g.GuardA.Stop()
	if _, err := g.A.Mount(t.Context(), "db@auto", "three"); !errors.Is(err, dataset.ErrUnavailable) {
		t.Errorf("mounted without a guard: %v", err)
	}
	if mounted, err := host.IsMountPoint(path); err != nil || mounted {
		t.Errorf("the refused volume is mounted: %t, %v", mounted, err)
	}
	g.GuardA.Step = agenttest.BoundSession
	g.GuardA.Start()
	if _, err := g.A.Mount(t.Context(), "db@auto", "slow"); !errors.Is(err, dataset.ErrUnsupported) || !strings.Contains(err.Error(), "--step") {
		t.Errorf("mounted with a guard that fences too late: %v", err)
	}
	AwaitForgotten(g.GuardA, d.ID)
	g.A.MustUnmount("manual", "x")
	g.A.MustMount("manual", "y")
	g.A.MustUnmount("manual", "y")
}

// A host that is cut off from control and from its peers is fenced in time. If control is reachable again before
// another node took over, the host continues: no data and no mount is lost.
func TestI1HostCutOffIsFencedAndThawed(t *testing.T) {
	t.Parallel()
	g := agenttest.NewBounded(t)
	d := g.NewReplicated("db")
	path := g.A.MustMount("db@auto", "user")
	g.LinkA.Cut()
	g.Network.SetCut(true)
	renewed, _ := g.A.Leases.Deadlines.Session()
	e := g.GuardA.AwaitFenced(d.ID)
	if at := e.Fence.At; at > renewed+agenttest.BoundSession*9/10 {
		t.Errorf("fenced %v after the last renewal was sent, of %v", at-renewed, agenttest.BoundSession)
	}
	if agenttest.CanWrite(t, path, 100*time.Millisecond) {
		t.Error("a fenced volume is written to")
	}
	if _, err := g.A.Mount(t.Context(), "db@auto", "another"); err == nil {
		t.Error("a fenced volume is mounted for another one")
	}
	g.A.Restart() // a restarted agent asks the guard before it thaws anything
	if e, _ := g.GuardA.Entry(d.ID); e.State != guard.StateFenced || e.Breaches > 0 || agenttest.CanWrite(t, path, 100*time.Millisecond) {
		t.Errorf("a restarted agent has thawed the fenced dataset: %+v", e)
	}
	g.LinkA.Mend()
	agenttest.Await(t, func() bool { e, _ := g.GuardA.Entry(d.ID); return e.State == guard.StateArmed })
	if !agenttest.CanWrite(t, path, time.Minute) || len(g.A.Uses.Get(d.ID).IDs) != 1 {
		t.Errorf("it does not go on: %+v", g.A.Uses.Get(d.ID))
	}
	g.A.MustUnmount("db@auto", "user")
	AwaitForgotten(g.GuardA, d.ID)
}

// While control is silent for all nodes, the promises of the nodes with a copy extend the lease of a holder, for as
// long as that lasts. No node gets a new copy meanwhile.
func TestPromisesExtendLeaseWithoutControl(t *testing.T) {
	t.Parallel()
	g := agenttest.NewBounded(t)
	d := g.NewReplicated("db")
	path := g.A.MustMount("db@auto", "user")
	g.LinkA.Cut()
	g.LinkB.Cut()
	renewed, ttl := g.A.Leases.Deadlines.Session()
	agenttest.Await(t, func() bool { return clock.Boottime() > renewed+2*ttl })
	e, _ := g.GuardA.Entry(d.ID)
	if e.State != guard.StateArmed || e.Fence != nil || len(e.Steps) > 0 || !agenttest.CanWrite(t, path, time.Minute) {
		t.Errorf("%+v", e)
	}
	if err := g.A.Leases.Deadlines.Enrol(t.Context(), d.ID, uuid.New()); !errors.Is(err, dataset.ErrUnavailable) {
		t.Errorf("another node gets a copy that has promised nothing: %v", err)
	}
	if err := g.A.Leases.Deadlines.Enrol(t.Context(), d.ID, g.B.Node()); err != nil {
		t.Errorf("the node that has promised gets nothing: %v", err)
	}
	g.Network.SetCut(true)
	g.GuardA.AwaitFenced(d.ID)
	g.Network.SetCut(false) // promises do not renew a lease that has lapsed
	asks(g.A, g.B)
	if g.A.Leases.Deadlines.Until(d) > clock.Boottime() {
		t.Error("promises have confirmed what had lapsed")
	}
	g.LinkA.Mend()
	agenttest.Await(t, func() bool { e, _ := g.GuardA.Entry(d.ID); return e.State == guard.StateArmed })
	g.A.MustUnmount("db@auto", "user")
}

// A home was superseded while it was fenced. Its writers are killed, the volume is unmounted, and its data is kept as
// a superseded copy.
func TestI1FencedHomeIsSuperseded(t *testing.T) {
	t.Parallel()
	g := agenttest.NewBounded(t)
	d := g.NewReplicated("db")
	path := g.A.MustMount("db@auto", "user")
	holder := exec.Command("sleep", "1000")
	holder.Dir = path
	require.NoError(t, holder.Start())
	killed := make(chan error, 1)
	go func() { killed <- holder.Wait() }()
	g.LinkA.Cut()
	g.Network.SetCut(true)
	g.GuardA.AwaitFenced(d.ID)
	g.Network.SetCut(false)
	var out api.Outcome
	agenttest.Await(t, func() (ok bool) {
		var err error
		out, err = g.Service.Submit(t.Context(), api.Request{ID: uuid.New(), Kind: dataset.OpMove, Volume: "db", Node: "host-b", Force: true, Fenced: "host-a"})
		return err == nil
	})
	if op := g.AwaitEnd(*out.Operation); op.State != dataset.OpDone {
		t.Fatalf("%+v", op.Problem)
	}
	g.LinkA.Mend()
	if err := <-killed; err == nil {
		t.Error("the holder was not killed")
	}
	g.A.AwaitSettled(d.ID)
	agenttest.Await(t, func() bool {
		v := g.Recorded("db")
		return len(v.CopyDetails) == 1 && v.CopyDetails[0].Kind == dataset.CopySuperseded
	})
	agenttest.Await(t, func() bool { _, there := g.GuardA.Entry(d.ID); return !there })
	if r := g.A.Uses.Get(d.ID); len(r.IDs) > 0 {
		t.Errorf("%+v", r)
	}
	g.A.MustUnmount("db@auto", "user") // the engine unmounts late
}

// A new session extends no lease before the homes of this node were read during that session: another node may have
// taken over in between.
func TestI1NewSessionReadsHomesFirst(t *testing.T) {
	t.Parallel()
	g := agenttest.NewBounded(t)
	d := g.NewReplicated("db")
	g.A.MustMount("db@auto", "user")
	g.LinkA.Cut()
	agenttest.Await(t, func() bool { // its session has ended, and promises extend the lease
		nodes, err := g.Service.NodeList(t.Context(), "")
		return err == nil && slices.ContainsFunc(nodes, func(n api.Node) bool { return n.ID == g.A.Node() && !n.Live })
	})
	g.LinkA.SetSyncFails(true)
	before := g.LinkA.LastRenewed()
	g.LinkA.Mend()
	agenttest.Await(t, func() bool { renewed, _ := g.A.Leases.Deadlines.Session(); return renewed > before })
	long := clock.Boottime() + agenttest.BoundSession
	agenttest.Await(t, func() bool { return clock.Boottime() > long })
	if e, _ := g.GuardA.Entry(d.ID); e.State != guard.StateArmed || e.Fence != nil {
		t.Errorf("it was fenced while others promised: %+v", e)
	}
	g.Network.SetCut(true)
	g.GuardA.AwaitFenced(d.ID)
	if renewed, _ := g.A.Leases.Deadlines.Session(); renewed <= before {
		t.Error("it does not renew")
	}
	g.LinkA.SetSyncFails(false)
	agenttest.Await(t, func() bool { e, _ := g.GuardA.Entry(d.ID); return e.State == guard.StateArmed })
	g.A.MustUnmount("db@auto", "user")
}

// A restarted agent continues the leases of mounted volumes. Without control it opens no other volume whose lease is
// bounded in time, but it opens volumes with failover manual.
func TestRestartKeepsLeaseWithoutControl(t *testing.T) {
	t.Parallel()
	g := agenttest.NewBounded(t)
	d, idle := g.NewReplicated("db"), g.NewReplicated("idle")
	g.A.NewVolume("manual", map[string]string{"size": "320MiB"})
	g.A.MustMount("db@auto", "user")
	was, _ := g.GuardA.Entry(d.ID)
	g.A.Restart()
	agenttest.Await(t, func() bool { e, _ := g.GuardA.Entry(d.ID); return e.Deadline > was.Deadline+agenttest.BoundSession/5 })
	if e, _ := g.GuardA.Entry(d.ID); e.State != guard.StateArmed || e.Fence != nil || len(g.A.Uses.Get(d.ID).IDs) != 1 {
		t.Errorf("%+v, used by %+v", e, g.A.Uses.Get(d.ID))
	}
	g.LinkA.Cut()
	g.A.Restart()
	if _, err := g.A.Mount(t.Context(), "idle@auto", "user"); !errors.Is(err, dataset.ErrUnavailable) {
		t.Errorf("mounted, and nobody has confirmed it: %v", err)
	}
	g.A.MustMount("manual", "user")
	g.A.MustUnmount("manual", "user")
	g.LinkA.Mend()
	agenttest.Await(t, func() bool { _, err := g.A.Mount(t.Context(), "idle@auto", "user"); return err == nil })
	g.A.MustUnmount("idle@auto", "user")
	agenttest.Await(t, func() bool { e, _ := g.GuardA.Entry(d.ID); return e.State == guard.StateArmed })
	g.A.MustUnmount("db@auto", "user")
	g.AwaitConsistent(d, "at the end")
	g.AwaitConsistent(idle, "at the end")
}

// A home that did not learn that its volume moved does not trust a store that another node, which knows of the move,
// does not trust. It opens nothing, and leaves the volume to the node with the later epoch.
func TestI1StoreThatPeerRejectsIsNotRead(t *testing.T) {
	t.Parallel()
	g := agenttest.NewBounded(t)
	d := g.NewReplicated("db")
	log := logtest.NewLocal(g.A.Config.Log.(*logrus.Logger))
	var read atomic.Int32
	g.LinkA.ChangeSync(func(s *api.Sync) { s.Halted = "node host-b says that it is older"; read.Add(1) })
	g.A.Restart()
	if path, err := g.A.Mount(t.Context(), "db@auto", "user"); !errors.Is(err, dataset.ErrUnavailable) {
		t.Errorf("mounted at %s on the word of a store that went back: %v", path, err)
	}
	if got := asks(g.B, g.A, lease.Epoch{Dataset: d.ID, Epoch: d.Epoch + 1}); len(got.Granted) != 1 {
		t.Errorf("the home with the later epoch is disturbed: %+v", got)
	}
	if got := asks(g.B, g.A, lease.Epoch{Dataset: d.ID, Epoch: d.Epoch}); len(got.Refused) != 1 {
		t.Errorf("its own epoch is promised to another one: %+v", got)
	}
	again := read.Load() + 4
	agenttest.Await(t, func() bool { return read.Load() >= again })
	said := slices.DeleteFunc(log.AllEntries(), func(e *logrus.Entry) bool {
		return !strings.Contains(e.Message, "cannot read the datasets whose home is this node")
	})
	if len(said) != 1 {
		t.Errorf("it is said %d times why it was not read", len(said))
	}
	g.LinkA.ChangeSync(nil)
	agenttest.Await(t, func() bool { _, err := g.A.Mount(t.Context(), "db@auto", "user"); return err == nil })
	g.A.MustUnmount("db@auto", "user")
}

// An agent knows whether its guard answers. Doctor reports it if not, and says what to do.
func TestDoctorReportsWhetherGuardAnswers(t *testing.T) {
	t.Parallel()
	w := agenttest.NewGuard(t, time.Second)
	f := &agenttest.Cluster{T: t}
	f.StartControl()
	f.A = f.AddHost("host-a", "dir")
	f.A.Config.Guard = w
	t.Cleanup(f.Close)
	f.A.Start()
	doctor := func(level, text string) {
		t.Helper()
		list, err := f.A.Doctor(t.Context())
		require.NoError(t, err)
		for _, l := range list {
			if l.Subject == "guard" && l.Level == level && strings.Contains(l.Text+l.Fix, text) {
				return
			}
		}
		t.Errorf("doctor says nothing %s of the guard with %q: %+v", level, text, list)
	}
	guarded := f.A.Leases.Registrar.IsAnswering
	agenttest.Await(t, guarded)
	doctor(api.LevelOK, "can fence 0 datasets")
	w.Stop()
	agenttest.Await(t, func() bool { return !guarded() })
	doctor(api.LevelInfo, lease.StartGuard)
	d := dataset.Dataset{ID: uuid.New(), Volume: "db", Profile: dataset.Profile{Failover: dataset.Failover{Auto: true}}}
	f.A.Cache.SetCopy(d.ID, &api.AssignedCopy{Copy: dataset.Copy{Dataset: d.ID, Kind: dataset.CopyReplica}, Record: &d})
	doctor(api.LevelError, "1 of them have their home or a copy here")
	f.A.Cache.SetCopy(d.ID, nil)
	w.Start()
	agenttest.Await(t, guarded)
}

// asks asks a host for a promise for some epochs, in the name of another host.
func asks(h *agenttest.Host, other *agenttest.Host, epochs ...lease.Epoch) lease.Answer {
	h.Cluster.Helper()
	out, err := lease.Ask(h.Cluster.Context(), h.Config.PeerHTTP, other.Config.Address, other.Node(), lease.Request{Incarnation: h.Incarnation, Epochs: epochs})
	require.NoError(h.Cluster, err)
	return out
}

// A node with a copy promises to the home that it knows, for the duration of a session, and to no other node. A node
// that is about to open the next epoch promises nothing.
func TestPromisesGoOnlyToKnownHome(t *testing.T) {
	t.Parallel()
	const session = time.Second
	f := agenttest.NewBoundedCluster(t, session)
	d := f.A.NewVolume("db@safe", nil)
	agenttest.Await(t, func() bool { _, kept := f.B.Replicas.Copy(d.ID); return kept })
	agenttest.Await(t, func() bool { _, ttl := f.B.Leases.Deadlines.Session(); return ttl > 0 })
	now := lease.Epoch{Dataset: d.ID, Epoch: d.Epoch}
	over, none := lease.Epoch{Dataset: d.ID, Epoch: d.Epoch - 1}, lease.Epoch{Dataset: uuid.New(), Epoch: 1}

	got := asks(f.A, f.B, now, over, none)
	if len(got.Granted) != 1 || got.Granted[0] != now || time.Duration(got.Duration) != session {
		t.Errorf("%+v", got)
	}
	for i, want := range []string{"it is on node host-a, at epoch 1", "has no copy of it"} {
		if len(got.Refused) != 2 || !strings.Contains(got.Refused[i].Why, want) {
			t.Errorf("%+v, not %q", got.Refused, want)
		}
	}
	if got := asks(f.B, f.A, now); len(got.Refused) != 1 || !strings.Contains(got.Refused[0].Why, "node host-a has it") {
		t.Errorf("the home's own promise: %+v", got)
	}
	if _, err := lease.Ask(t.Context(), f.A.Config.PeerHTTP, f.B.Config.Address, f.B.Node(), lease.Request{Epochs: make([]lease.Epoch, lease.MaxEpochs+1)}); dataset.KindOf(err) != dataset.ErrInvalid {
		t.Errorf("too many at once: %v", err)
	}

	if holder, wait := f.B.Leases.Keeper.BlockPromises(now, session); holder != f.A.Node() || wait <= 0 {
		t.Errorf("sworn off while it is promised: %v, %v", holder, wait)
	}
	// Several attempts: until AllowPromises below, the node's background work may withdraw the promise again.
	agenttest.Await(t, func() bool {
		if _, wait := f.B.Leases.Keeper.BlockPromises(now, session); wait > 0 {
			return false
		}
		got := asks(f.A, f.B, now)
		return len(got.Refused) == 1 && strings.Contains(got.Refused[0].Why, "epoch 2 is about to be opened here")
	})
	f.B.Leases.AllowPromises(t.Context()) // control has recorded no promotion
	if got := asks(f.A, f.B, now); len(got.Granted) != 1 {
		t.Errorf("%+v", got)
	}
	f.Network.SetCut(true)
	if _, err := lease.Ask(t.Context(), f.A.Config.PeerHTTP, f.B.Config.Address, f.B.Node(), lease.Request{}); dataset.KindOf(err) != dataset.ErrOffline {
		t.Error(err)
	}
}
