package pool_test

import (
	"context"
	"errors"
	"path/filepath"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/uuid"

	"github.com/droverhq/drover/agent"
	"github.com/droverhq/drover/agent/agenttest"
	"github.com/droverhq/drover/agent/pool"
	"github.com/droverhq/drover/backends"
	"github.com/droverhq/drover/backends/dir"
	"github.com/droverhq/drover/control/api"
	"github.com/droverhq/drover/dataset"
)

// statHangs is backend dir whose pool other does not answer Stat until the gate is closed.
type statHangs struct {
	dir.Backend
	hangs atomic.Bool
	gate  chan struct{}
}

func (h *statHangs) Open(ctx context.Context, cfg backends.Config) (backends.Pool, error) {
	p, err := h.Backend.Open(ctx, cfg)
	if err != nil || cfg.Name != "other" {
		return p, err
	}
	return statPool{p, h}, nil
}

type statPool struct {
	backends.Pool
	h *statHangs
}

func (p statPool) Stat(ctx context.Context, id uuid.UUID) (backends.Entry, error) {
	if p.h.hangs.Load() {
		<-p.h.gate
	}
	return p.Pool.Stat(ctx, id)
}

// silentControl is a control that cannot be reached.
type silentControl struct{ api.Service }

func (silentControl) Volumes(context.Context, api.Page) (api.List[api.Volume], error) {
	return api.List[api.Volume]{}, dataset.Errorf(dataset.ErrUnavailable, "control is off")
}

func (silentControl) Snapshots(context.Context, string, api.Page) (api.List[dataset.Snapshot], error) {
	return api.List[dataset.Snapshot]{}, dataset.Errorf(dataset.ErrUnavailable, "control is off")
}

// While control is unreachable, a disk that hangs does not block a request for the snapshots of its volumes.
func TestOfflineSnapshotsWithHangingDisk(t *testing.T) {
	h := &statHangs{gate: make(chan struct{})}
	r := agenttest.New(t, func(c *agent.Config) {
		c.Backends = backends.NewRegistry(h)
		c.Pools = append(c.Pools, pool.Config{Name: "other", Backend: "dir", Path: filepath.Join(c.Root, "other")})
	})
	t.Cleanup(func() { close(h.gate) })
	here := r.NewVolume("here")
	if err := r.Create(t.Context(), "there", map[string]string{"pool": "other"}); err != nil {
		t.Fatal(err)
	}
	reader := r.Offline(silentControl{})
	h.hangs.Store(true)
	ended := make(chan error, 1)
	go func() {
		_, err := reader.Snapshots(t.Context(), "there", api.Page{})
		ended <- err
	}()
	var err error
	deadline := time.After(20 * time.Second)
	for asked := false; !asked; {
		r.FakeClock.Advance(pool.AskPatience / pool.AskTurns)
		select {
		case err = <-ended:
			asked = true
		case <-deadline:
			t.Fatal("the disk that hangs blocks the request")
		case <-time.After(time.Millisecond):
		}
	}
	if !errors.Is(err, dataset.ErrOffline) {
		t.Errorf("error %v, want that the pool is offline", err)
	}
	list, err := reader.Volumes(t.Context(), api.Page{})
	if err != nil || len(list.Items) != 2 || list.Items[0].ID != here.ID {
		t.Errorf("%+v, %v, want both volumes", list.Items, err)
	}
}
