package agenttest

import (
	"context"
	"testing"
	"time"

	"github.com/google/uuid"

	"github.com/droverhq/drover/agent/host"
	"github.com/droverhq/drover/agent/lease"
	"github.com/droverhq/drover/dataset"
	"github.com/droverhq/drover/guard"
	"github.com/droverhq/drover/internal/clock"
	"github.com/droverhq/drover/test/assert"
)

// BoundSession is a session time that is long enough for a loaded machine. A renewal then extends the leases of a host
// to 3 s after it was sent (lease.HolderSpan).
const BoundSession = 5 * time.Second

// Bounded is a cluster whose leases are bounded: its hosts have guards, and links to control that can be cut.
type Bounded struct {
	*Cluster
	GuardA, GuardB *Guard
	LinkA, LinkB   *Link
}

// NewBounded starts a Bounded with pools of backend loop.
func NewBounded(t *testing.T) *Bounded {
	t.Helper()
	return NewBoundedOn(t, "loop", BoundSession)
}

// NewBoundedOn starts a Bounded with pools of a backend.
func NewBoundedOn(t *testing.T, backend string, session time.Duration) *Bounded {
	t.Helper()
	g := &Bounded{Cluster: &Cluster{T: t, Session: session}}
	g.GuardA, g.GuardB = NewGuard(t, session/10), NewGuard(t, session/10)
	g.StartControl()
	g.A, g.B = g.AddHost("host-a", backend), g.AddHost("host-b", backend)
	g.LinkA, g.LinkB = NewLink(g.A.Config.Control), NewLink(g.B.Config.Control)
	g.A.Config.Control, g.B.Config.Control = g.LinkA, g.LinkB
	g.A.Config.Guard, g.B.Config.Guard = FusedGuard{g.GuardA, g.A}, FusedGuard{g.GuardB, g.B}
	t.Cleanup(func() {
		g.thaw()
		g.Close()
	})
	g.A.Start()
	g.B.Start()
	return g
}

// NewBoundedCluster starts a cluster with bounded leases whose links are never cut, and whose guards never fail.
func NewBoundedCluster(t *testing.T, session time.Duration) *Cluster {
	t.Helper()
	c := &Cluster{T: t, Session: session}
	c.StartControl()
	c.A, c.B = c.AddHost("host-a", "loop"), c.AddHost("host-b", "loop")
	c.A.Config.Guard, c.B.Config.Guard = NewGuard(t, session/10), NewGuard(t, session/10)
	t.Cleanup(c.Close)
	c.A.Start()
	c.B.Start()
	return c
}

// thaw thaws every dataset that a test has left fenced, because it could not be unmounted otherwise.
func (g *Bounded) thaw() {
	for _, w := range []*Guard{g.GuardA, g.GuardB} {
		if w.stop == nil {
			w.Start()
		}
		st, err := w.Status(context.Background())
		assert.NoError(g, err)
		for _, e := range st.Datasets {
			if lease.IsFenced(e) {
				_, err := w.Thaw(context.Background(), e.Dataset, e.Epoch, clock.Boottime()+time.Minute)
				assert.NoError(g, err)
			}
		}
	}
}

// NewReplicated creates a volume with failover auto on host-a, and waits for its replica on host-b.
func (g *Bounded) NewReplicated(name string) dataset.Dataset {
	g.Helper()
	Await(g.T, func() bool { return g.A.Create(g.Context(), name+"@auto", nil) == nil }) // control knows the guards
	d, _ := g.A.Cache.Volume(name)
	Await(g.T, func() bool { _, kept := g.B.Replicas.Copy(d.ID); return kept })
	return d
}

// AwaitConsistent waits until the mount of a volume on host-a agrees with its uses. With a use, the volume must be
// mounted and registered with the guard. Without one, it must be neither.
func (g *Bounded) AwaitConsistent(d dataset.Dataset, at string) {
	g.Helper()
	for until := time.Now().Add(time.Minute); ; time.Sleep(10 * time.Millisecond) {
		uses := g.A.Uses.Get(d.ID).IDs
		mounted, err := host.IsMountPoint(g.A.MountPath(d.ID))
		e, there := g.GuardA.Entry(d.ID)
		used := len(uses) > 0
		if err == nil && mounted == used && there == used && (!there || e.State == guard.StateArmed) {
			return
		}
		if time.Now().After(until) {
			g.Fatalf("%s: used by %v, mounted: %t, %v; the guard has it: %t, %+v", at, uses, mounted, err, there, e)
		}
	}
}

// AwaitFenced waits until the guard has fenced a dataset.
func (w *Guard) AwaitFenced(id uuid.UUID) guard.Entry {
	w.T.Helper()
	var e guard.Entry
	Await(w.T, func() bool { e, _ = w.Entry(id); return e.State == guard.StateFenced })
	return e
}

// FusedGuard is a guard that the fuse of a host cuts off.
type FusedGuard struct {
	*Guard
	Host *Host
}

func (f FusedGuard) Register(ctx context.Context, r guard.Registration) (e guard.Entry, err error) {
	return e, Unavailable(f.Host.Fuse.Act("guard register", func() error {
		e, err = f.Guard.Register(ctx, r)
		return err
	}))
}

func (f FusedGuard) Check(ctx context.Context, id uuid.UUID, epoch uint64) (e guard.Entry, err error) {
	return e, Unavailable(f.Host.Fuse.Act("guard check", func() error {
		e, err = f.Guard.Check(ctx, id, epoch)
		return err
	}))
}

func (f FusedGuard) Release(ctx context.Context, id uuid.UUID, epoch uint64) error {
	return Unavailable(f.Host.Fuse.Act("guard release", func() error { return f.Guard.Release(ctx, id, epoch) }))
}

func (f FusedGuard) Feed(ctx context.Context, feeds []guard.Feed) (map[uuid.UUID]error, error) {
	if f.Host.Fuse.Blown() {
		return nil, Unavailable(errDead)
	}
	return f.Guard.Feed(ctx, feeds)
}
