package move_test

import (
	"slices"
	"testing"

	"github.com/google/uuid"

	"github.com/droverhq/drover/agent/agenttest"
	"github.com/droverhq/drover/control/api"
	"github.com/droverhq/drover/dataset"
)

// Snapshots that a user removed on the earlier home do not return with the volume. Snapshots for other nodes that are
// no longer needed are removed as well, once the volume is on its new home.
func TestRemovedSnapshotsDoNotReturn(t *testing.T) {
	t.Parallel()
	f := agenttest.NewCluster(t, "loop", "loop")
	d := f.A.NewVolume("db", map[string]string{"size": "320MiB"})
	f.A.WriteFile("db", "token", "first")
	if err := f.A.Perform(t.Context(), api.Request{Kind: dataset.OpSnapshot, Volume: "db", Name: "mine"}); err != nil {
		t.Fatal(err)
	}
	has := func(h *agenttest.Host) (kinds []dataset.SnapshotKind, ids []uuid.UUID) {
		e, err := h.Pool().Stat(t.Context(), d.ID)
		if err != nil {
			t.Fatal(err)
		}
		for _, s := range e.Snapshots {
			kinds, ids = append(kinds, s.Kind), append(ids, s.ID)
		}
		return kinds, ids
	}
	f.Move("db", f.B)
	f.A.AwaitSettled(d.ID)
	_, before := has(f.A)
	if err := f.B.Perform(t.Context(), api.Request{Kind: dataset.OpSnapshotDelete, Volume: "db", Snapshot: "mine"}); err != nil {
		t.Fatal(err)
	}
	f.B.WriteFile("db", "token", "second")
	f.Move("db", f.A)
	f.B.AwaitSettled(d.ID)
	if kinds, _ := has(f.A); slices.Contains(kinds, dataset.SnapshotManual) {
		t.Errorf("a removed snapshot exists: %v", kinds)
	}
	for range 3 {
		f.A.WriteFile("db", "token", "third")
		f.Move("db", f.B)
		f.A.AwaitSettled(d.ID)
		f.B.WriteFile("db", "token", "fourth")
		f.Move("db", f.A)
		f.B.AwaitSettled(d.ID)
	}
	agenttest.Await(t, func() bool {
		_, ids := has(f.A)
		return !slices.ContainsFunc(before, func(id uuid.UUID) bool { return slices.Contains(ids, id) })
	})
	f.A.WantFile("db", "token", "fourth")
}
