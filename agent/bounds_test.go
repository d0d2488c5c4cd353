package agent

import (
	"context"
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

	"github.com/droverhq/drover/agent/host"
	"github.com/droverhq/drover/agent/lease"
	"github.com/droverhq/drover/agent/promise"
	"github.com/droverhq/drover/control/api"
	"github.com/droverhq/drover/dataset"
	"github.com/droverhq/drover/guard"
	"github.com/droverhq/drover/internal/clock"
)

// boundSession is long enough for a loaded machine: what is held is for 3 s.
const boundSession = 5 * time.Second

// guarded is a flock whose hosts have guards, and links to control that can be cut.
type guarded struct {
	*flock
	wa, wb *warden
	la, lb *link
}

func newGuarded(t *testing.T) *guarded { return newGuardedOn(t, "loop", boundSession) }

func newGuardedOn(t *testing.T, backend string, session time.Duration) *guarded {
	t.Helper()
	g := &guarded{flock: &flock{T: t, session: session}, wa: newWarden(t, session/10), wb: newWarden(t, session/10)}
	g.serve()
	g.a, g.b = g.host("host-a", backend), g.host("host-b", backend)
	g.la, g.lb = newLink(g.a.cfg.Control), newLink(g.b.cfg.Control)
	g.a.cfg.Control, g.b.cfg.Control = g.la, g.lb
	g.a.cfg.Guard, g.b.cfg.Guard = fusedGuard{g.wa, g.a}, fusedGuard{g.wb, g.b}
	t.Cleanup(func() {
		g.thaws()
		g.close()
	})
	g.a.up()
	g.b.up()
	return g
}

// thaws lets all go on that a test has left fenced: nothing else could be ended.
func (g *guarded) thaws() {
	for _, w := range []*warden{g.wa, g.wb} {
		if w.stop == nil {
			w.up()
		}
		st, err := w.Status(context.Background())
		if err != nil {
			g.Error(err)
		}
		for _, e := range st.Datasets {
			if lease.IsFenced(e) {
				_, err := w.Thaw(context.Background(), e.Dataset, e.Epoch, clock.Boottime()+time.Minute)
				if err != nil {
					g.Error(err)
				}
			}
		}
	}
}

// fusedGuard is the way to the guard.
type fusedGuard struct {
	*warden
	h *flockHost
}

func (f fusedGuard) Register(ctx context.Context, r guard.Registration) (e guard.Entry, err error) {
	return e, unavailable(f.h.fuse.act("guard register", func() error { e, err = f.warden.Register(ctx, r); return err }))
}

func (f fusedGuard) Check(ctx context.Context, id uuid.UUID, epoch uint64) (e guard.Entry, err error) {
	return e, unavailable(f.h.fuse.act("guard check", func() error { e, err = f.warden.Check(ctx, id, epoch); return err }))
}

func (f fusedGuard) Release(ctx context.Context, id uuid.UUID, epoch uint64) error {
	return unavailable(f.h.fuse.act("guard release", func() error { return f.warden.Release(ctx, id, epoch) }))
}

func (f fusedGuard) Feed(ctx context.Context, feeds []guard.Feed) (map[uuid.UUID]error, error) {
	if f.h.fuse.blown() {
		return nil, unavailable(errDead)
	}
	return f.warden.Feed(ctx, feeds)
}

// replicated makes a volume with failover auto on host-a and waits for its replica.
func (g *guarded) replicated(name string) dataset.Dataset {
	g.Helper()
	await(g.T, func() bool { return g.a.Create(g.Context(), name+"@auto", nil) == nil }) // once control has heard of the guards
	d, _ := g.a.Cache.Volume(name)
	await(g.T, func() bool { _, kept := g.b.replicas.Copy(d.ID); return kept })
	return d
}

// fences waits until a guard has fenced a dataset.
func (w *warden) fences(id uuid.UUID) guard.Entry {
	w.t.Helper()
	var e guard.Entry
	await(w.t, func() bool { e, _ = w.entry(id); return e.State == guard.StateFenced })
	return e
}

// forgets waits until a guard has not got a dataset, which is looked for on the host before.
func (w *warden) forgets(id uuid.UUID) {
	w.t.Helper()
	await(w.t, func() bool { _, there := w.entry(id); return !there })
}

// What is mounted of a volume with failover auto the guard has from before its mount until
// after its unmount, with deadlines that renewals justify; of others it hears nothing.
func TestBoundedMount(t *testing.T) {
	t.Parallel()
	g := newGuarded(t)
	d := g.replicated("db")
	g.a.volume("manual", map[string]string{"size": "320MiB"})
	path := g.a.mounts("db@auto", "one")
	g.a.mounts("manual", "x")
	e, there := g.wa.entry(d.ID)
	if !there || e.State != guard.StateArmed || e.Epoch != d.Epoch || !e.Own || e.Policy != guard.PolicyKill || len(e.Paths) != 1 || e.Paths[0] != path || e.Filesystem.Root == "" {
		t.Errorf("%t, %+v", there, e)
	}
	for _, id := range []string{"two", "one"} { // another container, and docker cp into the first
		g.a.fuse.set(-1, false, nil)
		g.a.mounts("db@auto", id)
		if acts := g.a.fuse.seen(); !slices.Contains(acts, "guard check") || slices.Contains(acts, "guard register") {
			t.Errorf("a mount of what is mounted: %v", acts)
		}
	}
	g.a.unmounts("db@auto", "one")
	for last := e.Deadline; ; {
		e, _ := g.wa.entry(d.ID)
		if renewed := g.la.lastRenewed(); e.Deadline > renewed+boundSession*6/10 {
			t.Fatalf("a deadline of %v rests on a renewal at %v", e.Deadline, renewed)
		}
		if e.Deadline > last+2*boundSession/5 {
			break // it was fed several times
		}
	}
	g.a.unmounts("db@auto", "one")
	if _, there := g.wa.entry(d.ID); !there {
		t.Error("the guard has forgotten what is in use still")
	}
	g.a.unmounts("db@auto", "two")
	g.wa.forgets(d.ID)
	if list, err := g.a.config.State.List(t.Context(), "enrolled/"+d.ID.String()+"/"+g.b.Node().String(), "", 0); err != nil || len(list) != 1 {
		t.Errorf("who pulled it is not on disk: %v, %v", list, err)
	}
	g.wa.down()
	if _, err := g.a.Mount(t.Context(), "db@auto", "three"); !errors.Is(err, dataset.ErrUnavailable) {
		t.Errorf("mounted without a guard: %v", err)
	}
	if mounted, err := host.IsMountPoint(path); err != nil || mounted {
		t.Errorf("what was refused is mounted: %t, %v", mounted, err)
	}
	g.wa.step = boundSession
	g.wa.up()
	if _, err := g.a.Mount(t.Context(), "db@auto", "slow"); !errors.Is(err, dataset.ErrUnsupported) || !strings.Contains(err.Error(), "--step") {
		t.Errorf("mounted with a guard that fences too late: %v", err)
	}
	g.wa.forgets(d.ID)
	g.a.unmounts("manual", "x")
	g.a.mounts("manual", "y")
	g.a.unmounts("manual", "y")
}

// A host that is cut off from control and from its peers is fenced in time. When control is
// back before anybody took over, it goes on: nothing is lost, and no mount.
func TestI1FencedAndThawed(t *testing.T) {
	t.Parallel()
	g := newGuarded(t)
	d := g.replicated("db")
	path := g.a.mounts("db@auto", "user")
	g.la.away()
	g.wires.setCut(true)
	renewed, _ := g.a.Standing()
	e := g.wa.fences(d.ID)
	if at := e.Fence.At; at > renewed+boundSession*9/10 {
		t.Errorf("fenced %v after the last renewal was sent, of %v", at-renewed, boundSession)
	}
	if writable(t, path, 100*time.Millisecond) {
		t.Error("a fenced volume is written to")
	}
	if _, err := g.a.Mount(t.Context(), "db@auto", "another"); err == nil {
		t.Error("a fenced volume is mounted for another one")
	}
	g.a.again() // started anew it asks the guard before it thaws anything
	if e, _ := g.wa.entry(d.ID); e.State != guard.StateFenced || e.Breaches > 0 || writable(t, path, 100*time.Millisecond) {
		t.Errorf("an agent that was started anew has thawed what is fenced: %+v", e)
	}
	g.la.back()
	await(t, func() bool { e, _ := g.wa.entry(d.ID); return e.State == guard.StateArmed })
	if !writable(t, path, time.Minute) || len(g.a.uses.Get(d.ID).IDs) != 1 {
		t.Errorf("it does not go on: %+v", g.a.uses.Get(d.ID))
	}
	g.a.unmounts("db@auto", "user")
	g.wa.forgets(d.ID)
}

// While control is silent for everybody, the promises of those with a copy carry a holder
// on, for as long as that lasts; nobody gets a copy anew meanwhile.
func TestPromisesCarryOn(t *testing.T) {
	t.Parallel()
	g := newGuarded(t)
	d := g.replicated("db")
	path := g.a.mounts("db@auto", "user")
	g.la.away()
	g.lb.away()
	renewed, ttl := g.a.Standing()
	await(t, func() bool { return clock.Boottime() > renewed+2*ttl })
	e, _ := g.wa.entry(d.ID)
	if e.State != guard.StateArmed || e.Fence != nil || len(e.Steps) > 0 || !writable(t, path, time.Minute) {
		t.Errorf("%+v", e)
	}
	if err := g.a.deadlines.Enrol(t.Context(), d.ID, uuid.New()); !errors.Is(err, dataset.ErrUnavailable) {
		t.Errorf("another node gets a copy that has promised nothing: %v", err)
	}
	if err := g.a.deadlines.Enrol(t.Context(), d.ID, g.b.Node()); err != nil {
		t.Errorf("who has promised gets nothing: %v", err)
	}
	g.wires.setCut(true)
	g.wa.fences(d.ID)
	g.wires.setCut(false) // their promises do not begin anew what has lapsed
	g.a.asks(g.b)
	if g.a.deadlines.Until(d) > clock.Boottime() {
		t.Error("promises have confirmed what had lapsed")
	}
	g.la.back()
	await(t, func() bool { e, _ := g.wa.entry(d.ID); return e.State == guard.StateArmed })
	g.a.unmounts("db@auto", "user")
}

// A home that was overtaken while it was fenced: who wrote there is killed, the volume is
// unmounted, and what it had is kept as a superseded copy.
func TestI1Superseded(t *testing.T) {
	t.Parallel()
	g := newGuarded(t)
	d := g.replicated("db")
	path := g.a.mounts("db@auto", "user")
	holder := exec.Command("sleep", "1000")
	holder.Dir = path
	if err := holder.Start(); err != nil {
		t.Fatal(err)
	}
	killed := make(chan error, 1)
	go func() { killed <- holder.Wait() }()
	g.la.away()
	g.wires.setCut(true)
	g.wa.fences(d.ID)
	g.wires.setCut(false)
	var out api.Outcome
	await(t, func() (ok bool) {
		var err error
		out, err = g.svc.Submit(t.Context(), api.Request{ID: uuid.New(), Kind: dataset.OpMove, Volume: "db", Node: "host-b", Force: true, Fenced: "host-a"})
		return err == nil
	})
	if op := g.ended(*out.Operation); op.State != dataset.OpDone {
		t.Fatalf("%+v", op.Problem)
	}
	g.la.back()
	if err := <-killed; err == nil {
		t.Error("who held it was not killed")
	}
	g.a.settled(d.ID)
	await(t, func() bool { v := g.record("db"); return len(v.Kept) == 1 && v.Kept[0].Kind == dataset.CopySuperseded })
	await(t, func() bool { _, there := g.wa.entry(d.ID); return !there })
	if r := g.a.uses.Get(d.ID); len(r.IDs) > 0 {
		t.Errorf("%+v", r)
	}
	g.a.unmounts("db@auto", "user") // the engine comes late
}

// A session that is a new one says nothing before what this node is the home of was read
// during it: another node may have taken over in between.
func TestI1SessionsAreRead(t *testing.T) {
	t.Parallel()
	g := newGuarded(t)
	d := g.replicated("db")
	g.a.mounts("db@auto", "user")
	g.la.away()
	await(t, func() bool { // its session is over, and promises carry it on
		nodes, err := g.svc.NodeList(t.Context(), "")
		return err == nil && slices.ContainsFunc(nodes, func(n api.Node) bool { return n.ID == g.a.Node() && !n.Live })
	})
	g.la.setDeaf(true)
	before := g.la.lastRenewed()
	g.la.back()
	await(t, func() bool { renewed, _ := g.a.Standing(); return renewed > before })
	long := clock.Boottime() + boundSession
	await(t, func() bool { return clock.Boottime() > long })
	if e, _ := g.wa.entry(d.ID); e.State != guard.StateArmed || e.Fence != nil {
		t.Errorf("it was fenced while others promised: %+v", e)
	}
	g.wires.setCut(true)
	g.wa.fences(d.ID)
	if renewed, _ := g.a.Standing(); renewed <= before {
		t.Error("it does not renew")
	}
	g.la.setDeaf(false)
	await(t, func() bool { e, _ := g.wa.entry(d.ID); return e.State == guard.StateArmed })
	g.a.unmounts("db@auto", "user")
}

// An agent that is started anew carries on what is mounted, and without control opens
// nothing else of what is bounded in time; a volume with failover manual it does.
func TestBoundedRestart(t *testing.T) {
	t.Parallel()
	g := newGuarded(t)
	d, idle := g.replicated("db"), g.replicated("idle")
	g.a.volume("manual", map[string]string{"size": "320MiB"})
	g.a.mounts("db@auto", "user")
	was, _ := g.wa.entry(d.ID)
	g.a.again()
	await(t, func() bool { e, _ := g.wa.entry(d.ID); return e.Deadline > was.Deadline+boundSession/5 })
	if e, _ := g.wa.entry(d.ID); e.State != guard.StateArmed || e.Fence != nil || len(g.a.uses.Get(d.ID).IDs) != 1 {
		t.Errorf("%+v, used by %+v", e, g.a.uses.Get(d.ID))
	}
	g.la.away()
	g.a.again()
	if _, err := g.a.Mount(t.Context(), "idle@auto", "user"); !errors.Is(err, dataset.ErrUnavailable) {
		t.Errorf("mounted, and nobody has confirmed it: %v", err)
	}
	g.a.mounts("manual", "user")
	g.a.unmounts("manual", "user")
	g.la.back()
	await(t, func() bool { _, err := g.a.Mount(t.Context(), "idle@auto", "user"); return err == nil })
	g.a.unmounts("idle@auto", "user")
	await(t, func() bool { e, _ := g.wa.entry(d.ID); return e.State == guard.StateArmed })
	g.a.unmounts("db@auto", "user")
	g.agrees(d, "at the end")
	g.agrees(idle, "at the end")
}

// A home that missed where its volume went believes no store that another node, which knows
// that, does not: it opens nothing, and leaves the volume to who has the later epoch.
func TestI1HaltedStoreIsNotRead(t *testing.T) {
	t.Parallel()
	g := newGuarded(t)
	d := g.replicated("db")
	log := logtest.NewLocal(g.a.cfg.Log.(*logrus.Logger))
	var read atomic.Int32
	g.la.answers(func(s *api.Sync) { s.Halted = "node host-b says that it is older"; read.Add(1) })
	g.a.again()
	if path, err := g.a.Mount(t.Context(), "db@auto", "user"); !errors.Is(err, dataset.ErrUnavailable) {
		t.Errorf("mounted at %s on the word of a store that went back: %v", path, err)
	}
	if got := g.b.asks(g.a, promise.Epoch{Dataset: d.ID, Epoch: d.Epoch + 1}); len(got.Granted) != 1 {
		t.Errorf("who has a later epoch is not left alone: %+v", got)
	}
	if got := g.b.asks(g.a, promise.Epoch{Dataset: d.ID, Epoch: d.Epoch}); len(got.Refused) != 1 {
		t.Errorf("its own epoch is promised to another one: %+v", got)
	}
	again := read.Load() + 4
	await(t, func() bool { return read.Load() >= again })
	said := slices.DeleteFunc(log.AllEntries(), func(e *logrus.Entry) bool { return !strings.Contains(e.Message, "was not read") })
	if len(said) != 1 {
		t.Errorf("it is said %d times why it was not read", len(said))
	}
	g.la.answers(nil)
	await(t, func() bool { _, err := g.a.Mount(t.Context(), "db@auto", "user"); return err == nil })
	g.a.unmounts("db@auto", "user")
}
