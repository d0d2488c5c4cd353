package agent

import (
	"errors"
	"testing"

	"github.com/google/uuid"

	"github.com/droverhq/drover/agent/jobs"
	"github.com/droverhq/drover/agent/records"
	"github.com/droverhq/drover/control/api"
	"github.com/droverhq/drover/dataset"
)

// The record beside the data follows what is decided without the agent, and a removal,
// while it runs: who has the pool alone on the next day goes by it.
func TestRecordBesideTheDataFollows(t *testing.T) {
	r := newRig(t)
	d := r.volume("db")
	says := func(want func(dataset.Dataset) bool) {
		t.Helper()
		await(t, func() bool {
			e, err := r.pool().Stat(t.Context(), d.ID)
			return err == nil && e.Record != nil && want(*e.Record)
		})
	}
	for _, protect := range []bool{true, false} {
		req := api.Request{ID: uuid.New(), Kind: dataset.OpUpdate, Volume: "db", Protect: &protect}
		if _, err := r.link.Service.Submit(t.Context(), req); err != nil {
			t.Fatal(err)
		}
		says(func(d dataset.Dataset) bool { return d.Protected == protect })
	}
	if err := r.Remove(t.Context(), "db"); err != nil {
		t.Fatal(err)
	}
	says(func(d dataset.Dataset) bool { return d.State == dataset.StateTrashed })
}

// What the engine has once called a volume stays its name, whatever the volume is by
// now: an error would make the engine forget it. What it never called it so is absent.
func TestGetOfASpellingThatWasUsed(t *testing.T) {
	r := newRig(t)
	d := r.volume("db")
	used := map[string]any{"spellings/db": records.Spellings{Dataset: d.ID, Used: []string{"db", "db@gold"}}}
	if err := r.DB.Put(t.Context(), used); err != nil {
		t.Fatal(err)
	}
	r.restart()
	if v, err := r.Get(t.Context(), "db@gold"); err != nil || v.Spelling != "db@gold" || v.Mountpoint != r.MountPath(d.ID) {
		t.Errorf("a spelling that was used: %+v, %v", v, err)
	}
	if v, err := r.Get(t.Context(), "db@silver"); !errors.Is(err, dataset.ErrNotFound) {
		t.Errorf("a spelling that never was: %+v, %v", v, err)
	}
}

// An operation that was planned in an epoch that is over does nothing: it is refused
// before the bytes, not when they are gone.
func TestI1OperationOfAnOlderEpoch(t *testing.T) {
	r := newRig(t)
	ctx := t.Context()
	d := r.volume("db")
	op := dataset.Operation{ID: uuid.New(), Kind: dataset.OpPurge, Node: r.NodeID, Volume: "db", DatasetID: d.ID, Epoch: d.Epoch}
	d.Epoch++
	r.Cache.Apply(d, r.Cache.Index(d.ID)+1)
	if _, err := r.executor.Execute(ctx, &jobs.Job{}, op); !errors.Is(err, dataset.ErrStale) {
		t.Errorf("a purge of an older epoch: %v", err)
	}
	if _, err := r.pool().Stat(ctx, d.ID); err != nil {
		t.Errorf("what it was of: %v", err)
	}
}

// A full answer that was overtaken by what was made here since does not have that forgotten;
// what is really gone is.
func TestFullAnswerIsOvertaken(t *testing.T) {
	r := newRig(t)
	was := r.follower.Known()
	s, err := r.link.Sync(t.Context(), r.NodeID, 0, 0)
	if err != nil {
		t.Fatal(err)
	}
	d := r.volume("since")
	gone := dataset.Dataset{ID: uuid.New(), Volume: "gone", State: dataset.StateReady, Epoch: 1, Home: r.NodeID, Pool: d.Pool}
	r.Cache.Apply(gone, 1)
	if err := r.follower.Apply(t.Context(), s, was); err != nil {
		t.Fatal(err)
	}
	if _, known := r.Cache.Dataset(d.ID); !known {
		t.Error("a volume that was made since is forgotten")
	}
	if _, known := r.Cache.Dataset(gone.ID); known {
		t.Error("a volume that is not on record is kept")
	}
}
