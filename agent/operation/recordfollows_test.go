package operation_test

import (
	"errors"
	"testing"

	"github.com/google/uuid"

	"github.com/droverhq/drover/agent/agenttest"
	"github.com/droverhq/drover/agent/host"
	"github.com/droverhq/drover/control/api"
	"github.com/droverhq/drover/dataset"
)

// The record beside the data is updated after decisions that the agent did not make, and after a removal, while the
// agent runs: an operator who later has only the pool relies on it.
func TestRecordBesideDataFollowsUpdates(t *testing.T) {
	r := agenttest.New(t)
	d := r.NewVolume("db")
	says := func(want func(dataset.Dataset) bool) {
		t.Helper()
		agenttest.Await(t, func() bool {
			e, err := r.Pool().Stat(t.Context(), d.ID)
			return err == nil && e.Record != nil && want(*e.Record)
		})
	}
	for _, protect := range []bool{true, false} {
		req := api.Request{ID: uuid.New(), Kind: dataset.OpUpdate, Volume: "db", Protect: &protect}
		if _, err := r.Link.Service.Submit(t.Context(), req); err != nil {
			t.Fatal(err)
		}
		says(func(d dataset.Dataset) bool { return d.Protected == protect })
	}
	if err := r.Remove(t.Context(), "db"); err != nil {
		t.Fatal(err)
	}
	says(func(d dataset.Dataset) bool { return d.State == dataset.StateTrashed })
}

// An operation that was planned in an earlier epoch does nothing: it is refused before data is changed.
func TestI1OperationOfOlderEpochIsRefused(t *testing.T) {
	r := agenttest.New(t)
	ctx := t.Context()
	d := r.NewVolume("db")
	op := dataset.Operation{ID: uuid.New(), Kind: dataset.OpPurge, Node: r.NodeID, Volume: "db", DatasetID: d.ID, Epoch: d.Epoch}
	d.Epoch++
	r.Cache.Apply(d, r.Cache.Index(d.ID)+1)
	if _, err := r.Execute(ctx, &host.Job{}, op); !errors.Is(err, dataset.ErrStale) {
		t.Errorf("a purge of an older epoch: %v", err)
	}
	if _, err := r.Pool().Stat(ctx, d.ID); err != nil {
		t.Errorf("what it was of: %v", err)
	}
}
