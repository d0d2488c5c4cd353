package move_test

import (
	"context"
	"io"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/uuid"

	"github.com/droverhq/drover/agent/agenttest"
	"github.com/droverhq/drover/agent/host"
	agentpool "github.com/droverhq/drover/agent/pool"
	"github.com/droverhq/drover/backends"
	"github.com/droverhq/drover/dataset"
)

// fullHome is a pool that can be below its reserve. If hold is set, it is below the reserve once it sends, and pauses for
// so long before it sends.
type fullHome struct {
	backends.Pool
	backends.Sender
	full *atomic.Bool
	hold *atomic.Int64 // a time.Duration
}

func (p fullHome) Status(ctx context.Context) dataset.PoolStatus {
	st := p.Pool.Status(ctx)
	if p.full.Load() {
		st.Free = backends.Reserve(st.Size) - 1
	}
	return st
}

func (p fullHome) Send(ctx context.Context, src dataset.Source, base uuid.UUID, from int64, w io.Writer,
	progress backends.Progress) (backends.Stream, error) {
	if hold := time.Duration(p.hold.Load()); hold > 0 {
		p.full.Store(true)
		select {
		case <-ctx.Done():
			return backends.Stream{}, ctx.Err()
		case <-time.After(hold):
		}
	}
	return p.Sender.Send(ctx, src, base, from, w, progress)
}

func newFullHome(h *agenttest.Host) fullHome {
	p := fullHome{full: &atomic.Bool{}, hold: &atomic.Int64{}}
	h.Pools.Change(h.Pools.All()[0].ID, func(of *agentpool.Pool) {
		p.Pool, p.Sender = of.Storage, of.Storage.(backends.Sender)
		of.Storage = p
	})
	return p
}

// awaitNoTransferSnapshot waits until a dataset has no snapshot for another node.
func awaitNoTransferSnapshot(h *agenttest.Host, id uuid.UUID) {
	h.Cluster.Helper()
	agenttest.Await(h.Cluster.T, func() bool {
		e, err := h.Pool().Stat(h.Cluster.Context(), id)
		_, any := host.Newest(e, host.IsTransfer)
		return err == nil && !any
	})
}

// A move of a volume in use ends before its snapshot fills the pool of the home with the blocks that users overwrite.
// The snapshot is removed, and the volume stays where it is.
func TestMoveDoesNotFillHome(t *testing.T) {
	f := agenttest.NewCluster(t, "loop", "loop")
	d := f.A.NewVolume("db", map[string]string{"size": "320MiB"})
	f.A.WriteFile("db", "token", "one")
	pool := newFullHome(f.A)
	pool.hold.Store(int64(10 * time.Second))
	op := f.AwaitEnd(f.BeginMove("db", f.B))
	if op.State != dataset.OpFailed || op.Problem.Code != dataset.ErrNoSpace.Code ||
		!strings.Contains(op.Problem.Message, "would be free in its pool") ||
		strings.Contains(op.Problem.Message, "\n") {
		t.Errorf("the move is %s: %+v", op.State, op.Problem)
	}
	if home := f.Recorded("db").Home; home != f.A.Node() {
		t.Errorf("its home is node %s", home)
	}
	awaitNoTransferSnapshot(f.A, d.ID)
	pool.hold.Store(0)
	pool.full.Store(false)
	f.Move("db", f.B)
	f.B.WantFile("db", "token", "one")
}

// Nobody writes to a volume that its home has relinquished, so a full pool does not end the rest of its move.
func TestMoveOfRelinquishedVolumeLeavesFullHome(t *testing.T) {
	f := agenttest.NewCluster(t, "loop", "loop")
	f.A.NewVolume("db", map[string]string{"size": "320MiB"})
	f.A.WriteFile("db", "token", "one")
	pool := newFullHome(f.A)
	pool.full.Store(true)
	pool.hold.Store(int64(200 * time.Millisecond))
	f.Move("db", f.B)
	f.B.WantFile("db", "token", "one")
}

// The base of a replica keeps the blocks that users overwrite, too. A refresh that finds the pool nearly full removes
// the base. Once there is space again, a refresh transfers all data.
func TestReplicaDoesNotFillHome(t *testing.T) {
	f := agenttest.NewCluster(t, "loop", "loop")
	d := f.A.NewVolume("db@hand")
	f.A.WriteFile("db", "token", "one")
	agenttest.Await(t, func() bool { return f.ReplicaHasSince(f.B, "db", d.Created) })
	pool := newFullHome(f.A)
	pool.full.Store(true)
	awaitNoTransferSnapshot(f.A, d.ID)
	f.A.WriteFile("db", "token", "two")
	written := time.Now()
	pool.full.Store(false)
	agenttest.Await(t, func() bool { return f.ReplicaHasSince(f.B, "db", written) })
	f.Move("db", f.B)
	f.B.WantFile("db", "token", "two")
}
