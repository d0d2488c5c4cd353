package agent

import (
	"errors"
	"os"
	"testing"

	"github.com/google/uuid"

	"github.com/droverhq/drover/control/api"
	"github.com/droverhq/drover/dataset"
)

// What is condemned and could not be destroyed, as the host was still in it, goes
// later, without a restart.
func TestCondemnedIsTriedAgain(t *testing.T) {
	r := newRig(t)
	ctx := t.Context()
	d := r.volume("db")
	if err := r.Remove(ctx, "db"); err != nil {
		t.Fatal(err)
	}
	if err := r.mountpoint(r.mountPath(d.ID)); err != nil {
		t.Fatal(err)
	}
	if err := r.mountDataset(ctx, r.pool(), d, r.mountPath(d.ID)); err != nil {
		t.Fatal(err)
	}
	shell, err := os.Open(r.mountPath(d.ID))
	if err != nil {
		t.Fatal(err)
	}
	defer shell.Close()
	out, err := r.link.Service.Submit(ctx, api.Request{ID: uuid.New(), Kind: dataset.OpPurge, Volume: d.ID.String()})
	if err != nil {
		t.Fatal(err)
	}
	await(t, func() bool {
		op, known := r.known(ctx, out.Operation.ID)
		return known && op.State == dataset.OpFailed
	})
	if err := shell.Close(); err != nil {
		t.Fatal(err)
	}
	await(t, func() bool {
		r.clock.Advance(purgeEvery)
		return len(r.inPool("datasets")) == 0
	})
}

// A volume that was condemned, and is none that is any more since a backup of the store was
// put back and recovered, stays.
func TestCondemnedNoMore(t *testing.T) {
	r := newRig(t)
	d := r.volume("db")
	op := dataset.Operation{ID: uuid.New(), Kind: dataset.OpPurge, Node: r.node, Volume: "db", DatasetID: d.ID, Epoch: d.Epoch}
	for _, state := range []dataset.State{dataset.StateReady, dataset.StateTrashed} {
		d.State = state
		r.cache.apply(d, r.cache.index(d.ID)+1)
		if _, err := r.carryOut(t.Context(), &job{}, op); !errors.Is(err, dataset.ErrStale) {
			t.Errorf("a purge of a volume that is %s: %v", state, err)
		}
	}
	if _, err := r.pool().Stat(t.Context(), d.ID); err != nil {
		t.Errorf("what it was of: %v", err)
	}
}
