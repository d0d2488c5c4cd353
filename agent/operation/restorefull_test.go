package operation_test

import (
	"context"
	"strings"
	"testing"

	"github.com/google/uuid"

	"github.com/droverhq/drover/agent/agenttest"
	"github.com/droverhq/drover/agent/pool"
	"github.com/droverhq/drover/backends"
	"github.com/droverhq/drover/control/api"
	"github.com/droverhq/drover/dataset"
)

// restoreless is a pool that has no space for a restore.
type restoreless struct{ backends.Pool }

func (restoreless) Restore(context.Context, uuid.UUID, uuid.UUID, dataset.Snapshot, backends.Progress) error {
	return dataset.Errorf(dataset.ErrNoSpace, "the pool is full")
}

func TestRestoreInFullPoolHasRemedy(t *testing.T) {
	r := agenttest.New(t)
	ctx := t.Context()
	if err := r.Create(ctx, "db", nil); err != nil {
		t.Fatal(err)
	}
	if err := r.Perform(ctx, api.Request{Kind: dataset.OpSnapshot, Volume: "db", Name: "first"}); err != nil {
		t.Fatal(err)
	}
	p, _ := r.Pools.ByName("default")
	r.Pools.Change(p.ID, func(p *pool.Pool) { p.Storage = restoreless{p.Storage} })
	err := r.Perform(ctx, api.Request{Kind: dataset.OpRestore, Volume: "db", Snapshot: "first"})
	if err == nil || !strings.Contains(err.Error(), "the pool is full (") || !strings.Contains(err.Error(), "drover volume ls and drover snapshot ls show what could be deleted") {
		t.Errorf("%v", err)
	}
}
