package operation_test

import (
	"context"
	"errors"
	"testing"

	"github.com/google/uuid"

	"github.com/droverhq/drover/agent"
	"github.com/droverhq/drover/agent/agenttest"
	"github.com/droverhq/drover/agent/host"
	"github.com/droverhq/drover/backends"
	"github.com/droverhq/drover/control/api"
	"github.com/droverhq/drover/dataset"
)

// between calls a function after an agent has made a dataset and before the dataset is recorded.
type between struct {
	api.Service
	do func()
}

func (b *between) Commit(ctx context.Context, node uuid.UUID, r api.Report) (api.Committed, error) {
	b.do()
	return b.Service.Commit(ctx, node, r)
}

// I3: a dataset that is being made is not recorded yet. If control answers again meanwhile, and the leftovers of a
// crash are removed, the dataset stays.
func TestI3CreateInProgressIsNotReaped(t *testing.T) {
	var b *between
	r := agenttest.New(t, func(cfg *agent.Config) {
		b = &between{cfg.Control, func() {}}
		cfg.Control = b
	})
	joined := false
	b.do = func() {
		if _, err := r.Follower.Join(t.Context()); err != nil {
			t.Error(err)
		}
		cleaned := func(context.Context, *host.Job) error { return nil }
		if _, err := r.Jobs.Do(t.Context(), "incoming/"+r.Pool().ID().String(), "", cleaned); err != nil {
			t.Error(err)
		}
		joined = true
	}
	d := r.NewVolume("db")
	b.do = func() {}
	if e, err := r.Pool().Stat(t.Context(), d.ID); err != nil || e.State != backends.EntryReady || !joined {
		t.Errorf("%+v, %v, joined %t", e, err, joined)
	}
	r.MountDataset(d, "id")
	if err := r.Unmount(t.Context(), "db", "id"); err != nil {
		t.Error(err)
	}
}

// I4: an operator destroys a dataset that is just being made, and is not recorded yet. Once it is acknowledged, it
// stays.
func TestI4CreateInProgressIsNotCollected(t *testing.T) {
	var b *between
	r := agenttest.New(t, func(cfg *agent.Config) {
		b = &between{cfg.Control, func() {}}
		cfg.Control = b
	})
	collected := make(chan error, 1)
	b.do = func() {
		b.do = func() {}
		list, err := r.Pool().List(t.Context())
		if err != nil || len(list) != 1 {
			t.Errorf("%+v, %v", list, err)
			return
		}
		id := list[0].ID
		go func() { _, err := r.Collect(t.Context(), id, false); collected <- err }()
		agenttest.Await(t, func() bool { return r.Locks.Users(id) == 2 })
	}
	d := r.NewVolume("db")
	if err := <-collected; !errors.Is(err, dataset.ErrExists) {
		t.Errorf("collected: %v", err)
	}
	r.MountDataset(d, "id")
	if err := r.Unmount(t.Context(), "db", "id"); err != nil {
		t.Error(err)
	}
}
