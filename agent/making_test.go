package agent

import (
	"context"
	"errors"
	"testing"

	"github.com/google/uuid"

	"github.com/droverhq/drover/agent/jobs"
	"github.com/droverhq/drover/backends"
	"github.com/droverhq/drover/control/api"
	"github.com/droverhq/drover/dataset"
)

// between does something after an agent has made a dataset and before that is on record.
type between struct {
	api.Service
	do func()
}

func (b *between) Commit(ctx context.Context, node uuid.UUID, r api.Report) (api.Committed, error) {
	b.do()
	return b.Service.Commit(ctx, node, r)
}

// I3: what is being made is on nobody's record yet. When control answers anew meanwhile,
// and what a crash left is cleaned up, it stays.
func TestI3WhatIsBeingMadeIsNotReaped(t *testing.T) {
	var b *between
	r := newRig(t, func(cfg *Config) {
		b = &between{cfg.Control, func() {}}
		cfg.Control = b
	})
	joined := false
	b.do = func() {
		if _, err := r.follower.Join(t.Context()); err != nil {
			t.Error(err)
		}
		cleaned := func(context.Context, *jobs.Job) error { return nil }
		if _, err := r.Jobs.Do(t.Context(), "incoming/"+r.pool().ID().String(), "", cleaned); err != nil {
			t.Error(err)
		}
		joined = true
	}
	d := r.volume("db")
	b.do = func() {}
	if e, err := r.pool().Stat(t.Context(), d.ID); err != nil || e.State != backends.EntryReady || !joined {
		t.Errorf("%+v, %v, joined %t", e, err, joined)
	}
	r.mount(d, "id")
	if err := r.Unmount(t.Context(), "db", "id"); err != nil {
		t.Error(err)
	}
}

// I4: a person has a dataset destroyed that is just being made, and on nobody's record then:
// once it is acknowledged, it stays.
func TestI4WhatIsBeingMadeIsNotCollected(t *testing.T) {
	var b *between
	r := newRig(t, func(cfg *Config) {
		b = &between{cfg.Control, func() {}}
		cfg.Control = b
	})
	collected := make(chan error, 1)
	b.do = func() {
		b.do = func() {}
		list, err := r.pool().List(t.Context())
		if err != nil || len(list) != 1 {
			t.Errorf("%+v, %v", list, err)
			return
		}
		id := list[0].ID
		go func() { collected <- r.Collect(t.Context(), id) }()
		await(t, func() bool { return r.Locks.Users(id) == 2 })
	}
	d := r.volume("db")
	if err := <-collected; !errors.Is(err, dataset.ErrExists) {
		t.Errorf("collected: %v", err)
	}
	r.mount(d, "id")
	if err := r.Unmount(t.Context(), "db", "id"); err != nil {
		t.Error(err)
	}
}
