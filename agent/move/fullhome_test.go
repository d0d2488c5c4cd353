package move_test

import (
	"context"
	"io"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/uuid"

	"github.com/droverhq/drover/agent/agenttest"
	"github.com/droverhq/drover/agent/host"
	agentpool "github.com/droverhq/drover/agent/pool"
	"github.com/droverhq/drover/backends"
	"github.com/droverhq/drover/dataset"
	"github.com/droverhq/drover/internal/tree/treetest"
	"github.com/droverhq/drover/test/assert"
)

// fullHome is a pool that can be below its reserve. If hold is set, it is below the reserve once it sends, and pauses for
// so long before it sends.
type fullHome struct {
	backends.Pool
	backends.Sender
	backends.IdleChecker
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
		p.Pool, p.Sender, p.IdleChecker = of.Storage, of.Storage.(backends.Sender), of.Storage.(backends.IdleChecker)
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

// A move of a volume in use stops to copy before its snapshot fills the pool of the home with the blocks that users
// overwrite. The snapshot is removed, and everything is copied after the home has relinquished the volume.
func TestMoveDoesNotFillHome(t *testing.T) {
	f := agenttest.NewCluster(t, "loop", "loop")
	d := f.A.NewVolume("db", map[string]string{"size": "320MiB"})
	f.A.WriteFile("db", "token", "one")
	f.A.MustMount("db", "user")
	pool := newFullHome(f.A)
	pool.hold.Store(int64(time.Hour))
	op := f.BeginMove("db", f.B)
	agenttest.Await(t, pool.full.Load)
	pool.hold.Store(0)
	awaitNoTransferSnapshot(f.A, d.ID)
	f.A.MustUnmount("db", "user")
	if op = f.AwaitEnd(op); op.State != dataset.OpDone {
		t.Errorf("the move is %s: %+v", op.State, op.Problem)
	}
	f.B.WantFile("db", "token", "one")
}

// The base of a replica keeps the blocks that users overwrite, too. A home whose pool is nearly full removes the base
// of a volume in use, also if nothing is refreshed. Once there is space again, a refresh transfers all data. The base of
// an idle volume stays.
func TestReplicaDoesNotFillHome(t *testing.T) {
	f := agenttest.NewCluster(t, "loop", "loop")
	d, idle := f.A.NewVolume("db@hand"), f.A.NewVolume("idle@hand")
	f.A.WriteFile("db", "token", "one")
	agenttest.Await(t, func() bool {
		return f.ReplicaHasSince(f.B, "db", d.Created) && f.ReplicaHasSince(f.B, "idle", idle.Created)
	})
	f.B.Stop()
	f.A.MustMount("db", "user")
	pool := newFullHome(f.A)
	pool.full.Store(true)
	awaitNoTransferSnapshot(f.A, d.ID)
	if e, err := f.A.Pool().Stat(t.Context(), idle.ID); err != nil || len(e.Snapshots) == 0 {
		t.Errorf("the idle volume has %d snapshots, %v", len(e.Snapshots), err)
	}
	_, _, err := f.A.TransferSource.OpenTree(t.Context(), d.ID, uuid.New()) // nobody can keep a snapshot by reading it
	assert.ErrorIsf(t, err, dataset.ErrConflict, "the files of a volume in use")
	f.A.MustUnmount("db", "user")
	f.A.WriteFile("db", "token", "two")
	written := time.Now()
	pool.full.Store(false)
	f.B.Start()
	agenttest.Await(t, func() bool { return f.ReplicaHasSince(f.B, "db", written) })
	f.Move("db", f.B)
	f.B.WantFile("db", "token", "two")
}

// slowBodies delivers the streams of snapshots only once released is closed.
type slowBodies struct {
	http.RoundTripper
	began    func()
	released chan struct{}
}

func (s slowBodies) RoundTrip(r *http.Request) (*http.Response, error) {
	resp, err := s.RoundTripper.RoundTrip(r)
	if err == nil && strings.HasSuffix(r.URL.Path, "/stream") {
		s.began()
		resp.Body = slowBody{resp.Body, s.released}
	}
	return resp, err
}

type slowBody struct {
	io.ReadCloser
	released chan struct{}
}

func (b slowBody) Read(p []byte) (int, error) {
	<-b.released
	return b.ReadCloser.Read(p)
}

// A peer that accepts nothing does not delay the end of a transfer at the reserve. Once the volume is
// relinquished, nobody writes to it, and its transfer does not end.
func TestStalledTransferDoesNotFillHome(t *testing.T) {
	f := agenttest.NewCluster(t, "loop", "loop")
	d := f.A.NewVolume("db", map[string]string{"size": "320MiB"})
	f.A.WriteFile("db", "large", string(treetest.Bytes(1, 64<<20))) // more than the connection buffers
	f.A.MustMount("db", "user")
	pool := newFullHome(f.A)
	f.B.Stop()
	slow := slowBodies{f.B.Config.PeerHTTP, func() { pool.full.Store(true) }, make(chan struct{})}
	release := sync.OnceFunc(func() { close(slow.released) })
	defer release()
	f.B.Config.PeerHTTP = slow
	f.B.Start()
	op := f.BeginMove("db", f.B)
	agenttest.Await(t, pool.full.Load)
	awaitNoTransferSnapshot(f.A, d.ID)
	f.A.MustUnmount("db", "user")
	release()
	if op = f.AwaitEnd(op); op.State != dataset.OpDone {
		t.Errorf("the move is %s: %+v", op.State, op.Problem)
	}
}
