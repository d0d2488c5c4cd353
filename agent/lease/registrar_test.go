package lease

import (
	"context"
	"errors"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/uuid"

	"github.com/droverhq/drover/agent/host"
	"github.com/droverhq/drover/dataset"
	"github.com/droverhq/drover/guard"
	"github.com/droverhq/drover/internal/clock"
)

// later is a guard that has fenced a dataset at a later epoch than the agent knows.
type later struct {
	Guard
	entry  guard.Entry
	thawed atomic.Bool
}

func (g *later) Status(context.Context) (guard.Status, error) {
	return guard.Status{Datasets: []guard.Entry{g.entry}}, nil
}

func (g *later) Thaw(context.Context, uuid.UUID, uint64, time.Duration) (guard.Entry, error) {
	g.thawed.Store(true)
	return g.entry, nil
}

// An agent confirms only the epoch that it knows: it does not thaw a dataset that the guard has fenced at a later
// epoch.
func TestI1LaterFenceIsNotThawed(t *testing.T) {
	d := dataset.Dataset{ID: uuid.New(), Volume: "db", Epoch: 2}
	for epoch, thawed := range map[uint64]bool{1: true, 2: true, 3: false} {
		g := &later{entry: guard.Entry{Epoch: epoch, State: guard.StateFenced}}
		g.entry.Dataset = d.ID
		r := New(&host.Host{Clock: clock.System{}, Log: quiet()}, nil, g, nil, nil).Registrar
		err := r.Continue(t.Context(), d, time.Hour)
		if errors.Is(err, dataset.ErrStale) == thawed || g.thawed.Load() != thawed {
			t.Errorf("fenced at epoch %d: thawed %t, %v", epoch, g.thawed.Load(), err)
		}
	}
}
