package backup_test

import (
	"context"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/google/uuid"

	"github.com/droverhq/drover/agent/agenttest"
	"github.com/droverhq/drover/agent/pool"
	"github.com/droverhq/drover/backends"
	"github.com/droverhq/drover/control/api"
	"github.com/droverhq/drover/dataset"
	"github.com/droverhq/drover/internal/tree/treetest"
)

// filling is a pool with as much free space as the test says.
type filling struct {
	backends.Pool
	free *atomic.Int64 // as a part of the reserve, in percent; 0: what is free
	seen chan struct{} // gets a value for each status that the test waits for
}

func (p filling) Status(ctx context.Context) dataset.PoolStatus {
	st := p.Pool.Status(ctx)
	select {
	case p.seen <- struct{}{}:
	default:
	}
	if percent := p.free.Load(); percent > 0 {
		st.Free = backends.Reserve(st.Size) / 100 * dataset.Size(percent)
	}
	return st
}

// fillable makes the pool of a host a filling.
func fillable(f *agenttest.Cluster) filling {
	is := filling{free: &atomic.Int64{}, seen: make(chan struct{})}
	f.A.Pools.Change(f.A.Pools.All()[0].ID, func(p *pool.Pool) { is.Pool = p.Storage; p.Storage = is })
	return is
}

// wantEnded fails unless a backup was ended because of its pool, and left nothing.
func wantEnded(f *agenttest.Cluster, op dataset.Operation) {
	f.Helper()
	op = awaitEnd(f, op)
	if op.State != dataset.OpFailed || op.Problem.Code != dataset.ErrNoSpace.Code ||
		!strings.Contains(op.Problem.Message, "db to offsite") ||
		!strings.Contains(op.Problem.Message, "would be free in its pool, which its existing volumes need: the clone") {
		f.Errorf("the %s is %s: %+v", op.Kind, op.State, op.Problem)
	}
	agenttest.Await(f.T, func() bool { return !f.A.Runner.IsRunning(op.ID) })
	wantNothingLeft(f.A)
}

// While restic reads a clone, the clone keeps the blocks that the volume overwrites. A backup or push ends before they
// fill the pool, and its clone is removed.
func TestBackupEndsBeforePoolIsFull(t *testing.T) {
	f := newCluster(t, "db", "first")
	newRepository(t, f)
	free := fillable(f).free
	wait, _ := gate(t)
	for _, begin := range []func() dataset.Operation{
		func() dataset.Operation { return begin(f, "db", "") },
		func() dataset.Operation {
			return *f.Submit(api.Request{
				ID: uuid.New(), Kind: dataset.OpPush, Volume: "db", Repository: "offsite", Name: "offsite-db",
			}).Operation
		},
	} {
		op := begin()
		wait()
		free.Store(99)
		wantEnded(f, op)
		free.Store(0)
	}
}

// A neighbour that takes much space in a moment, of a pool that has more, ends no backup.
func TestBurstEndsNoBackup(t *testing.T) {
	f := newCluster(t, "db", "first")
	newRepository(t, f)
	pool := fillable(f)
	wait, pass := gate(t)
	op := begin(f, "db", "")
	wait()
	for _, percent := range []int64{2000, 1000, 210, 210} {
		pool.free.Store(percent)
		<-pool.seen // one that began before, and one after
		<-pool.seen
	}
	pass()
	if op = awaitEnd(f, op); op.State != dataset.OpDone {
		t.Errorf("the backup is %s: %+v", op.State, op.Problem)
	}
}

// A pool of backend dir copies the whole snapshot for a backup. The copy ends while it is made, before it has used the
// reserve.
func TestCopyForBackupEndsBeforePoolIsFull(t *testing.T) {
	f := agenttest.NewCluster(t, "dir", "loop")
	newRepository(t, f)
	f.A.NewVolume("db")
	f.A.MustMount("db", "user")
	f.A.WriteFile("db", "file", string(treetest.Bytes(1, 1<<20)))
	f.A.MustUnmount("db", "user")
	awaitEnd(f, *f.Submit(api.Request{ID: uuid.New(), Kind: dataset.OpSnapshot, Volume: "db", Name: "one"}).Operation)
	free := fillable(f).free
	free.Store(112)
	wantEnded(f, begin(f, "db", "one"))
	free.Store(0)
	backUp(f, "db", "one")
}
