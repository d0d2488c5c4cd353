package agent

import (
	"testing"

	"github.com/google/uuid"

	"github.com/droverhq/drover/agent/move"
	"github.com/droverhq/drover/agent/operation"
	"github.com/droverhq/drover/agent/registration"
	"github.com/droverhq/drover/backends"
	"github.com/droverhq/drover/backends/loop"
	"github.com/droverhq/drover/control/api"
	"github.com/droverhq/drover/dataset"
	"github.com/droverhq/drover/internal/run"
)

// undersizes is a flock whose host a went on with a volume from a copy that is older than its size,
// and could not give it that: b, which did, is down.
func undersizes(t *testing.T) (f *flock, d dataset.Dataset, kind *sizeless) {
	t.Helper()
	f = newFlock(t, "loop", "loop")
	kind = &sizeless{Backend: loop.New(&run.System{})}
	f.a.down()
	f.a.cfg.Backends = backends.NewRegistry(kind)
	f.a.up()
	d = f.a.volume("db", map[string]string{"size": sizeBefore.String()})
	f.a.writes("db", "token", "before")
	f.moves("db", f.b)
	f.a.settled(d.ID)
	f.b.resizes("db")
	f.b.down()
	kind.fails.Store(true)
	f.forces("db", f.a, f.b)
	await(t, func() bool { _, known := f.a.sizes.Deferred(d.ID); return known })
	return f, d, kind
}

// forces moves a volume to a host without another, which is vouched for.
func (f *flock) forces(volume string, to, without *flockHost) {
	f.Helper()
	out, err := f.svc.Submit(f.Context(), api.Request{ID: uuid.New(), Kind: dataset.OpMove, Volume: volume, Node: to.NodeName, Force: true, Fenced: without.NodeName})
	if err != nil || out.Operation == nil || out.Operation.Loss == nil {
		f.Fatalf("%+v, %v", out, err)
	}
	if op := f.ended(*out.Operation); op.State != dataset.OpDone {
		f.Fatalf("%+v", op.Problem)
	}
}

// A volume that was not given its size has it at the next home: its snapshots, of whomever they are,
// say how large it is, not how large it is to be.
func TestUndersizedMovesOn(t *testing.T) {
	t.Parallel()
	f, d, _ := undersizes(t)
	f.a.writes("db", "token", "later")
	if err := f.a.requests.Perform(t.Context(), api.Request{Kind: dataset.OpSnapshot, Volume: "db"}); err != nil {
		t.Fatal(err)
	}
	if s, err := f.svc.Snapshot(t.Context(), "db", f.record("db").Latest.String()); err != nil || s.Size != sizeBefore {
		t.Errorf("a snapshot of it has %s on record, %v", s.Size, err)
	}
	c := f.host("host-c", "loop")
	c.up()
	asC := move.WithAsker(t.Context(), c.Node())
	if s, _, err := f.a.source.Freshen(asC, d.ID, nil); err != nil || s.Size != sizeBefore {
		t.Errorf("one for a replica has %s, %v", s.Size, err)
	}
	f.a.writes("db", "token", "last")
	f.moves("db", c)
	c.sized("db")
	if got := c.reads("db", "token"); got != "last" {
		t.Errorf("it goes on with %q", got)
	}
	if u, known := c.sizes.Deferred(d.ID); known {
		t.Errorf("it is not of its size there: %+v", u)
	}
}

// What was given up is not resized any more, or it is not what went to the next home.
func TestUndersizedIsGivenUp(t *testing.T) {
	t.Parallel()
	f, d, kind := undersizes(t)
	c := f.host("host-c", "loop")
	c.up()
	asked := false
	c.fuse.set(-1, false, func(act string) {
		if _, given := f.a.leases.Relinquished(d.ID); act != "commit" || !given || asked {
			return
		}
		asked = true
		kind.fails.Store(false)
		f.a.sizes.Retry(t.Context())
		if _, still := f.a.sizes.Deferred(d.ID); !still {
			t.Error("it is resized when it was given up")
		}
	})
	f.moves("db", c)
	c.fuse.mend()
	f.a.settled(d.ID)
	if !asked {
		t.Fatal("nothing was given up")
	}
	for _, k := range f.record("db").Kept {
		if k.Node == f.a.Node() && k.Kind == dataset.CopySuperseded {
			t.Errorf("what was left is kept as something else than what was given up: %+v", k)
		}
	}
	await(t, func() bool { _, known := f.a.sizes.Deferred(d.ID); return !known })
}

// That a volume is not of its size is known until control has said whose it is: its record may not be
// on disk yet when the agent ends.
func TestUndersizedIsKeptUntilItHeard(t *testing.T) {
	r := newRig(t)
	d := r.volume("db")
	if err := r.sizes.Defer(t.Context(), d.ID, operation.DeferredResize{Why: "no room"}); err != nil {
		t.Fatal(err)
	}
	r.Cache.Remove(d.ID)
	joined := r.registration
	keeps := func(when string, want bool) {
		t.Helper()
		r.sizes.Retry(t.Context())
		if _, kept := r.sizes.Deferred(d.ID); kept != want {
			t.Errorf("%s: it is kept: %t", when, kept)
		}
	}
	r.registration = registration.New(registration.Deps{Host: r.Host})
	keeps("control is away", true)
	r.registration = joined
	r.Trust.Set("it is another one")
	keeps("control's store is not to be believed", true)
	r.Trust.Set("")
	keeps("it is another node's", false)
	r.Cache.Apply(d, 0)
}
