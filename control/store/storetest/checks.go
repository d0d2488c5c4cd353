package storetest

import (
	"errors"
	"testing"

	"github.com/droverhq/drover/control/store"
	"github.com/droverhq/drover/dataset"
)

func testChecks(t *testing.T, s store.Store) {
	i := txn(t, s, []store.Precondition{absent("a"), absent("b")}, set("a", "1"))
	refused(t, s, store.ErrConflict, []store.Precondition{absent("a")}, set("a", "2"))
	refused(t, s, store.ErrConflict, []store.Precondition{{Key: "b", Index: i}}, set("b", "2"))
	refused(t, s, store.ErrConflict, []store.Precondition{{Key: "a", Index: i + 1}}, del("a"))
	j := txn(t, s, []store.Precondition{{Key: "a", Index: i}, absent("b")}, set("a", "2"))
	refused(t, s, store.ErrConflict, []store.Precondition{{Key: "a", Index: i}}, set("a", "3"))
	txn(t, s, []store.Precondition{{Key: "a", Index: j}, {Key: "a", Index: j}}, del("a"))
	refused(t, s, store.ErrConflict, []store.Precondition{{Key: "a", Index: j}}, set("a", "4"))
	k := txn(t, s, []store.Precondition{absent("a")}, set("a", "5"))
	if k <= j {
		t.Errorf("a key that came again has index %d, after %d", k, j)
	}
	// A key that was deleted and created again has a new index, so a check of the old index fails.
	refused(t, s, store.ErrConflict, []store.Precondition{{Key: "a", Index: i}}, set("a", "6"))
}

func testAllOrNothing(t *testing.T, s store.Store) {
	i := txn(t, s, nil, set("a", "1"), set("b", "1"))
	for _, bad := range []string{"a", "b", "z"} {
		checks := []store.Precondition{{Key: "a", Index: i}, {Key: "b", Index: i}, absent("z")}
		for n := range checks {
			if checks[n].Key == bad {
				checks[n].Index += 1000
			}
		}
		refused(t, s, store.ErrConflict, checks, set("c", "new"), set("a", "2"), del("b"))
	}
}

// A write of the same bytes is a change like any other, so a check of the earlier index fails.
func testEqualBytes(t *testing.T, s store.Store) {
	i := txn(t, s, nil, set("a", "same"), set("b", "same"))
	j := txn(t, s, []store.Precondition{{Key: "a", Index: i}}, set("a", "same"), set("c", "other"))
	if e := get(t, s, "a"); e.Index != j {
		t.Errorf("index %d, want that of the transaction that last wrote it, %d", e.Index, j)
	}
	refused(t, s, store.ErrConflict, []store.Precondition{{Key: "a", Index: i}}, set("d", "x"))
	txn(t, s, []store.Precondition{{Key: "a", Index: j}, {Key: "b", Index: i}}, set("d", "x"))
}

// A check also applies to a key that the transaction does not write, whether or not the key exists.
func testUnwrittenKey(t *testing.T, s store.Store) {
	i := txn(t, s, nil, set("read/there", "1"), set("read/changes", "1"), set("read/goes", "1"))
	checks := []store.Precondition{{Key: "read/there", Index: i}, {Key: "read/changes", Index: i},
		{Key: "read/goes", Index: i}, absent("read/comes")}
	txn(t, s, checks, set("w", "1"))
	for _, change := range []store.Write{set("read/changes", "2"), del("read/goes"), set("read/comes", "1")} {
		was, err := s.Get(t.Context(), change.Key)
		if err != nil && !errors.Is(err, store.ErrNotFound) {
			t.Fatal(err)
		}
		j := txn(t, s, nil, change)
		refused(t, s, store.ErrConflict, checks, set("w", "2"))
		if was.Index == 0 || change.Delete {
			j = 0 // the key is absent now
		}
		if was.Index == 0 {
			txn(t, s, nil, del(change.Key))
		}
		for n := range checks {
			if checks[n].Key == change.Key {
				checks[n].Index = j
			}
		}
		txn(t, s, checks, set("w", "3"))
	}
}

// A key that is deleted and created again, in two transactions or between others, has a new index for checks. Within
// one transaction a key can be written only once.
func testDeleteAndCreate(t *testing.T, s store.Store) {
	i := txn(t, s, nil, set("a", "1"), set("b", "1"))
	refused(t, s, dataset.ErrInvalid, nil, del("a"), set("a", "2"))
	j := txn(t, s, []store.Precondition{{Key: "a", Index: i}, absent("c")}, del("a"), set("c", "1"))
	refused(t, s, store.ErrConflict, []store.Precondition{{Key: "a", Index: i}}, del("b"))
	refused(t, s, store.ErrConflict, []store.Precondition{{Key: "a", Index: i}}, del("a"))
	k := txn(t, s, []store.Precondition{absent("a"), {Key: "c", Index: j}}, set("a", "1"), del("c"))
	refused(t, s, store.ErrConflict, []store.Precondition{{Key: "a", Index: i}}, del("a"))
	refused(t, s, store.ErrConflict, []store.Precondition{{Key: "c", Index: j}}, del("c"))
	txn(t, s, []store.Precondition{{Key: "a", Index: k}, absent("c"), {Key: "b", Index: i}}, del("a"), del("b"))
	if list := all(t, s); len(list) != 0 {
		t.Errorf("left: %v", list)
	}
}
