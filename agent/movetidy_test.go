package agent

import (
	"slices"
	"testing"

	"github.com/google/uuid"

	"github.com/droverhq/drover/control/api"
	"github.com/droverhq/drover/dataset"
)

// What a user has removed where a volume was before does not come back with it. Snapshots for
// other nodes that are of no use any more go as well, once it is in its new place.
func TestWhatIsGoneGoes(t *testing.T) {
	t.Parallel()
	f := newFlock(t, "loop", "loop")
	d := f.a.volume("db", map[string]string{"size": "320MiB"})
	f.a.writes("db", "token", "first")
	if err := f.a.requests.Perform(t.Context(), api.Request{Kind: dataset.OpSnapshot, Volume: "db", Name: "mine"}); err != nil {
		t.Fatal(err)
	}
	has := func(h *flockHost) (kinds []dataset.SnapshotKind, ids []uuid.UUID) {
		e, err := h.thePool().Stat(t.Context(), d.ID)
		if err != nil {
			t.Fatal(err)
		}
		for _, s := range e.Snapshots {
			kinds, ids = append(kinds, s.Kind), append(ids, s.ID)
		}
		return kinds, ids
	}
	f.moves("db", f.b)
	f.a.settled(d.ID)
	_, before := has(f.a)
	if err := f.b.requests.Perform(t.Context(), api.Request{Kind: dataset.OpSnapshotDelete, Volume: "db", Snapshot: "mine"}); err != nil {
		t.Fatal(err)
	}
	f.b.writes("db", "token", "second")
	f.moves("db", f.a)
	f.b.settled(d.ID)
	if kinds, _ := has(f.a); slices.Contains(kinds, dataset.SnapshotManual) {
		t.Errorf("what was removed is there: %v", kinds)
	}
	for range 3 {
		f.a.writes("db", "token", "third")
		f.moves("db", f.b)
		f.a.settled(d.ID)
		f.b.writes("db", "token", "fourth")
		f.moves("db", f.a)
		f.b.settled(d.ID)
	}
	await(t, func() bool {
		_, ids := has(f.a)
		return !slices.ContainsFunc(before, func(id uuid.UUID) bool { return slices.Contains(ids, id) })
	})
	if got := f.a.reads("db", "token"); got != "fourth" {
		t.Errorf("it holds %q", got)
	}
}
