package controlsync_test

import (
	"testing"

	"github.com/google/uuid"

	"github.com/droverhq/drover/agent/agenttest"
	"github.com/droverhq/drover/agent/controlsync"
	"github.com/droverhq/drover/control/store"
)

// TestManyUsagesAreSaved: a transaction of the database is bounded, and the usages of a node are not.
func TestManyUsagesAreSaved(t *testing.T) {
	r := agenttest.New(t)
	const n = 2*store.MaxOps + 1
	for range n {
		controlsync.NoteUsage(r.Status, uuid.New())
	}
	if err := r.Status.SaveUsages(t.Context()); err != nil {
		t.Fatal(err)
	}
	saved := 0
	if err := r.DB.Each(t.Context(), "usage/", func(string, []byte) error { saved++; return nil }); err != nil || saved != n {
		t.Errorf("%d usages are saved, want %d: %v", saved, n, err)
	}
	r.Restart() // none of these datasets exists, so all are removed
	if err := r.Status.SaveUsages(t.Context()); err != nil {
		t.Error(err)
	}
}
