package operation_test

import (
	"testing"

	"github.com/google/uuid"

	"github.com/droverhq/drover/agent/agenttest"
	"github.com/droverhq/drover/agent/controlsync"
	"github.com/droverhq/drover/agent/move"
	"github.com/droverhq/drover/agent/operation"
	"github.com/droverhq/drover/backends"
	"github.com/droverhq/drover/backends/loop"
	"github.com/droverhq/drover/control/api"
	"github.com/droverhq/drover/dataset"
	"github.com/droverhq/drover/internal/run"
)

// undersizes returns a cluster whose host a continued with a volume from a copy that is older than its last resize,
// and could not resize it. Host b, which did resize it, is down.
func undersizes(t *testing.T) (f *agenttest.Cluster, d dataset.Dataset, kind *sizeless) {
	t.Helper()
	f = agenttest.NewCluster(t, "loop", "loop")
	kind = &sizeless{Backend: loop.New(&run.System{})}
	f.A.Stop()
	f.A.Config.Backends = backends.NewRegistry(kind)
	f.A.Start()
	d = f.A.NewVolume("db", map[string]string{"size": sizeBefore.String()})
	f.A.WriteFile("db", "token", "before")
	f.Move("db", f.B)
	f.A.AwaitSettled(d.ID)
	Resize(f.B, "db")
	f.B.Stop()
	kind.fails.Store(true)
	ForceMove(f, "db", f.A, f.B)
	agenttest.Await(t, func() bool { _, known := f.A.Sizes.Deferred(d.ID); return known })
	return f, d, kind
}

// ForceMove moves a volume to a host without another host, which is confirmed as fenced.
func ForceMove(f *agenttest.Cluster, volume string, to, without *agenttest.Host) {
	f.Helper()
	out, err := f.Service.Submit(f.Context(), api.Request{ID: uuid.New(), Kind: dataset.OpMove, Volume: volume, Node: to.NodeName, Force: true, Fenced: without.NodeName})
	if err != nil || out.Operation == nil || out.Operation.Loss == nil {
		f.Fatalf("%+v, %v", out, err)
	}
	if op := f.AwaitEnd(*out.Operation); op.State != dataset.OpDone {
		f.Fatalf("%+v", op.Problem)
	}
}

// A volume that was not resized gets its size at the next home. Its snapshots, whoever took them, have the size that
// the volume has, not the size that it should have.
func TestUndersizedVolumeGrowsAtNextHome(t *testing.T) {
	t.Parallel()
	f, d, _ := undersizes(t)
	f.A.WriteFile("db", "token", "later")
	if err := f.A.Perform(t.Context(), api.Request{Kind: dataset.OpSnapshot, Volume: "db"}); err != nil {
		t.Fatal(err)
	}
	if s, err := f.Service.Snapshot(t.Context(), "db", f.Recorded("db").HeadParent.String()); err != nil || s.Size != sizeBefore {
		t.Errorf("a snapshot of it has %s on record, %v", s.Size, err)
	}
	c := f.AddHost("host-c", "loop")
	c.Start()
	asC := move.WithRequester(t.Context(), c.Node())
	if s, _, err := f.A.TransferSource.TakeSnapshot(asC, d.ID, nil); err != nil || s.Size != sizeBefore {
		t.Errorf("one for a replica has %s, %v", s.Size, err)
	}
	f.A.WriteFile("db", "token", "last")
	f.Move("db", c)
	WantSize(c, "db")
	c.WantFile("db", "token", "last")
	if u, known := c.Sizes.Deferred(d.ID); known {
		t.Errorf("it is not of its size there: %+v", u)
	}
}

// A relinquished volume is not resized any more. Otherwise it would differ from the data that went to the next home.
func TestRelinquishedVolumeIsNotResized(t *testing.T) {
	t.Parallel()
	f, d, kind := undersizes(t)
	c := f.AddHost("host-c", "loop")
	c.Start()
	asked := false
	c.Fuse.Set(-1, false, func(act string) {
		if _, given := f.A.Leases.Relinquished(d.ID); act != "commit" || !given || asked {
			return
		}
		asked = true
		kind.fails.Store(false)
		f.A.Sizes.Retry(t.Context())
		if _, still := f.A.Sizes.Deferred(d.ID); !still {
			t.Error("it is resized when it was given up")
		}
	})
	f.Move("db", c)
	c.Fuse.Mend()
	f.A.AwaitSettled(d.ID)
	if !asked {
		t.Fatal("nothing was given up")
	}
	for _, k := range f.Recorded("db").CopyDetails {
		if k.Node == f.A.Node() && k.Kind == dataset.CopySuperseded {
			t.Errorf("the copy that was left differs from the relinquished data: %+v", k)
		}
	}
	agenttest.Await(t, func() bool { _, known := f.A.Sizes.Deferred(d.ID); return !known })
}

// That a volume does not have its recorded size is remembered until control has said where its home is: its record
// may not be on disk yet when the agent ends.
func TestUndersizedIsRecordedUntilControlAnswers(t *testing.T) {
	r := agenttest.New(t)
	d := r.NewVolume("db")
	if err := r.Sizes.Defer(t.Context(), d.ID, operation.DeferredResize{Why: "no room"}); err != nil {
		t.Fatal(err)
	}
	r.Cache.Remove(d.ID)
	keeps := func(when string, want bool) {
		t.Helper()
		r.Sizes.Retry(t.Context())
		if _, kept := r.Sizes.Deferred(d.ID); kept != want {
			t.Errorf("%s: it is kept: %t", when, kept)
		}
	}
	joined := r.Operations.SetMembership(controlsync.New(r.Moves, controlsync.Config{}).Registration)
	keeps("control is away", true)
	r.Operations.SetMembership(joined)
	r.Trust.Set("it is another one")
	keeps("control's store is not to be believed", true)
	r.Trust.Set("")
	keeps("it is another node's", false)
	r.Cache.Apply(d, 0)
}
