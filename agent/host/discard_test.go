package host_test

import (
	"context"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"

	"github.com/droverhq/drover/agent/agenttest"
	"github.com/droverhq/drover/agent/host"
	"github.com/droverhq/drover/agent/pool"
	"github.com/droverhq/drover/backends"
	"github.com/droverhq/drover/dataset"
	"github.com/droverhq/drover/test/assert"
	"github.com/droverhq/drover/test/require"
)

func TestMain(m *testing.M) { agenttest.Main(m) }

// slowPool is a pool of backend dir whose Delete moves the dataset away, as that of the backend does, but has removed
// none of its bytes when the caller's time ends. Its Reap waits.
type slowPool struct {
	backends.Pool
	gate chan struct{}
}

func (p slowPool) Delete(ctx context.Context, id uuid.UUID) error {
	at := p.Info().Path
	if err := os.Rename(filepath.Join(at, "incoming", id.String()), filepath.Join(at, "deleting", id.String())); err != nil {
		return err
	}
	<-ctx.Done()
	return nil
}

func (p slowPool) Reap(ctx context.Context, drop func(uuid.UUID) bool) (int, error) {
	select {
	case <-p.gate:
	case <-ctx.Done():
		return 0, ctx.Err()
	}
	return p.Pool.Reap(ctx, drop)
}

// The bytes of a dataset whose removal takes long are removed by a job. Meanwhile doctor names the dataset. A dataset
// with the same ID that is made again stays.
func TestDiscardContinuesInJob(t *testing.T) {
	f := agenttest.NewCluster(t, "dir", "dir")
	host.SetDiscardTime(t, 300*time.Millisecond)
	d, gate := f.A.NewIncoming(), make(chan struct{})
	for _, p := range f.A.Pools.All() {
		f.A.Pools.Change(p.ID, func(p *pool.Pool) { p.Storage = slowPool{p.Storage, gate} })
	}
	left := func() (paths []string) {
		t.Helper()
		err := filepath.WalkDir(f.A.Pool().Info().Path, func(path string, e os.DirEntry, err error) error {
			if err == nil && strings.Contains(filepath.Base(path), d.ID.String()) {
				paths = append(paths, path)
			}
			return err
		})
		require.NoError(t, err)
		return paths
	}
	require.NoError(t, host.Discard(t.Context(), f.A.Host, f.A.Pool(), d.ID))
	if got := f.A.Finding("dataset " + d.ID.String()); !strings.HasPrefix(got.Text, "is deleted, and its bytes are being removed") {
		t.Errorf("doctor says %+v of %v", got, left())
	}
	_, err := f.A.Pool().Create(t.Context(), d)
	require.NoError(t, err)
	close(gate)
	agenttest.Await(t, func() bool { return !host.IsDiscarding(f.A.Host, f.A.Pool()) })
	if got := left(); len(got) != 1 || !strings.Contains(got[0], "incoming") {
		t.Errorf("left: %v, want the new dataset", got)
	}
}

// An operation that an older store still has as running does not remove the dataset that it made.
func TestI3DiscardKeepsRecordedDataset(t *testing.T) {
	f := agenttest.NewCluster(t, "dir", "dir")
	d := f.A.NewVolume("db")
	assert.ErrorIs(t, host.Discard(t.Context(), f.A.Host, f.A.Pool(), d.ID), dataset.ErrConflict)
	if e, err := f.A.Pool().Stat(t.Context(), d.ID); err != nil || e.State != backends.EntryReady {
		t.Errorf("got %+v, %v", e, err)
	}
	assert.NoErrorf(t, host.Discard(t.Context(), f.A.Host, f.A.Pool(), uuid.New()), "without a dataset")
}

func TestNearestBaseNeedsSender(t *testing.T) {
	_, err := host.NearestBase(t.Context(), slowPool{}, backends.Entry{}, dataset.Snapshot{}, nil)
	assert.ErrorIs(t, err, dataset.ErrUnsupported)
}
