package shelf

import (
	"errors"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"github.com/google/uuid"
	"golang.org/x/sys/unix"

	"github.com/droverhq/drover/backends"
	"github.com/droverhq/drover/dataset"
	"github.com/droverhq/drover/internal/fault"
	"github.com/droverhq/drover/test/require"
)

// shelved is the folder of a ready dataset whose trees are directories.
type shelved struct {
	*testing.T
	*Folder
}

func newShelved(t *testing.T) *shelved {
	t.Helper()
	s := &shelved{T: t}
	shelf, err := Open(backends.Config{Name: "test", Path: filepath.Join(t.TempDir(), "pool"), Make: true}, "test")
	s.ok(err)
	d := dataset.Dataset{ID: uuid.New()}
	f, _, err := shelf.Make(d.ID)
	s.ok(err)
	s.ok(errors.Join(f.Mkdir(FirstHead), shelf.Finish(f, d), shelf.Commit(t.Context(), d.ID), f.Close()))
	s.Folder, err = shelf.FindDataset(d.ID)
	s.ok(err)
	t.Cleanup(func() { s.ok(s.Close()) })
	return s
}

func (s *shelved) ok(err error) {
	s.Helper()
	require.NoError(s, err)
}

// restore makes a tree and makes it the head, as a backend does.
func (s *shelved) restore(keep uuid.UUID) error {
	now, err := s.Head()
	if err == nil {
		err = s.Mkdir(RestoredTree(keep))
	}
	if err != nil {
		return err
	}
	was := SnapshotRecord{Snapshot: dataset.Snapshot{ID: keep}, Tree: now.Tree}
	return s.Replace(was, Head{Tree: RestoredTree(keep)}, func() {})
}

// listed returns the snapshots that the folder lists.
func (s *shelved) listed() []uuid.UUID {
	s.Helper()
	var e backends.Entry
	DescribeTrees(s.Folder, &e)
	if e.Problem != "" {
		s.Error(e.Problem)
	}
	var ids []uuid.UUID
	for _, one := range e.Snapshots {
		ids = append(ids, one.ID)
	}
	return ids
}

// I3: a failed restore leaves no record that the next restore would turn into a second snapshot of the head's tree,
// whichever call failed.
func TestI3FailedReplaceKeepsNoRecord(t *testing.T) {
	for _, onwards := range []bool{false, true} {
		for at := 0; ; at++ {
			s := newShelved(t)
			failed, next := uuid.New(), uuid.New()
			s.ok(s.Mkdir(RestoredTree(failed)))
			var err error
			calls, fErr := fault.Run(fault.Failure{At: at, Errno: unix.ENOSPC, Onwards: onwards}, func() {
				was := SnapshotRecord{Snapshot: dataset.Snapshot{ID: failed}, Tree: FirstHead}
				err = s.Replace(was, Head{Tree: RestoredTree(failed)}, func() {})
			})
			s.ok(fErr)
			now, hErr := s.Head()
			s.ok(hErr)
			what := calls[:min(at+1, len(calls))]
			want := []uuid.UUID{next}
			if now.Tree != FirstHead { // if a call failed, it was only a flush
				want = []uuid.UUID{failed, next}
			}
			if err == nil && len(want) != 2 {
				t.Fatalf("%v: done, and the head is %s", what, now.Tree)
			}
			if left, err := s.IsTreeOf(FirstHead, failed); err != nil || left && !onwards && now.Tree == FirstHead {
				t.Errorf("%v: the record stays: %t, %v", what, left, err)
			}
			s.ok(s.Sweep())
			s.ok(s.restore(next))
			slices.SortFunc(want, func(a, b uuid.UUID) int { return slices.Compare(a[:], b[:]) })
			if got := s.listed(); !slices.Equal(got, want) {
				t.Errorf("%v, then another restore: the snapshots are %v, want %v", what, got, want)
			}
			if at >= len(calls) {
				break
			}
		}
	}
}

// I3: if two records name one tree, removing one record keeps the tree, even if the other record cannot be read.
func TestI3DropSparesWhatAnotherNames(t *testing.T) {
	s := newShelved(t)
	one, other, damaged := uuid.New(), uuid.New(), uuid.New()
	s.ok(s.restore(one))
	s.ok(s.WriteSnapshot(SnapshotRecord{Snapshot: dataset.Snapshot{ID: other}, Tree: FirstHead}))
	s.ok(os.WriteFile(filepath.Join(s.Dir.Name(), snapshotRecordName(damaged)), []byte("{"), 0o600))
	drop := func(id uuid.UUID, want string) {
		t.Helper()
		if tree, err := s.Drop(id); err != nil || tree != want {
			t.Errorf("dropped %s: %q, %v, want %q", id, tree, err, want)
		}
	}
	drop(one, "")
	drop(one, "") // a repeated removal
	drop(other, "")
	s.ok(errors.Join(
		s.Remove(snapshotRecordName(damaged)),
		s.WriteSnapshot(SnapshotRecord{Snapshot: dataset.Snapshot{ID: one}, Tree: FirstHead}),
	))
	drop(one, FirstHead)
}

// If a restore is repeated after another restore, it does not destroy the tree that it made, which is a snapshot now.
func TestRestoredBefore(t *testing.T) {
	s := newShelved(t)
	first, second := uuid.New(), uuid.New()
	done := func(want bool) {
		t.Helper()
		if is, err := s.Restored(first); err != nil || is != want {
			t.Errorf("done %t, %v, want %t", is, err, want)
		}
	}
	done(false)
	s.ok(s.Mkdir(RestoredTree(first))) // an interrupted attempt
	done(false)
	s.ok(s.Rmdir(RestoredTree(first)))
	s.ok(s.restore(first))
	done(true)
	s.ok(s.restore(second))
	_, err := s.Drop(first)
	s.ok(err)
	done(true)
	s.ok(os.WriteFile(filepath.Join(s.Dir.Name(), snapshotRecordName(second)), []byte("{"), 0o600))
	if _, err := s.Restored(first); !errors.Is(err, dataset.ErrCorrupt) {
		t.Errorf("with a record that cannot be read: %v", err)
	}
}

// A complete restore is not repeated, even if both of its snapshots were deleted since.
func TestRestoreWithoutItsSnapshots(t *testing.T) {
	s := newShelved(t)
	from, keep := uuid.New(), uuid.New()
	s.ok(s.Mkdir(TreeOf(from)))
	s.ok(s.WriteSnapshot(SnapshotRecord{Snapshot: dataset.Snapshot{ID: from}, Tree: TreeOf(from)}))
	s.ok(s.restore(keep))
	for _, id := range []uuid.UUID{from, keep} {
		_, err := s.Drop(id)
		s.ok(err)
	}
	isBusy := func() error { return dataset.Errorf(dataset.ErrInUse, "in use") }
	remove := func(uuid.UUID) error { return errors.New("nothing must be removed") }
	if plan, err := s.PlanRestore(from, keep, isBusy, remove); err != nil || !plan.Done {
		t.Errorf("%+v, %v", plan, err)
	}
	if _, err := s.PlanRestore(from, uuid.New(), isBusy, remove); !errors.Is(err, dataset.ErrNotFound) {
		t.Errorf("another restore of a deleted snapshot: %v", err)
	}
}

// I3: the record that a failed restore left names the tree of the head. Removing any snapshot also removes this record,
// before another restore would turn it into a snapshot.
func TestI3DropRemovesTheRecordOfAFailedRestore(t *testing.T) {
	s := newShelved(t)
	failed := uuid.New()
	s.ok(s.WriteSnapshot(SnapshotRecord{Snapshot: dataset.Snapshot{ID: failed}, Tree: FirstHead}))
	if tree, err := s.Drop(failed); err != nil || tree != "" {
		t.Errorf("%q, %v", tree, err)
	}
	if named, err := s.IsTreeOf(FirstHead, failed); err != nil || named {
		t.Errorf("the record stays: %t, %v", named, err)
	}
}

// I3: in a copy, a record that names the tree of the head is the record of the snapshot that the head is about to
// become.
func TestI3SweepSparesACopy(t *testing.T) {
	s := newShelved(t)
	last := uuid.New()
	s.ok(s.WriteSnapshot(SnapshotRecord{Snapshot: dataset.Snapshot{ID: last}, Tree: FirstHead}))
	s.State = backends.EntryCopy
	s.ok(s.Sweep())
	if named, err := s.IsTreeOf(FirstHead, last); err != nil || !named {
		t.Errorf("the last snapshot of the copy is gone: %t, %v", named, err)
	}
}

// I3: a tree is destroyed only if it is not the head and no record names it or may name it.
func TestI3Removable(t *testing.T) {
	s := newShelved(t)
	one, damaged := uuid.New(), uuid.New()
	removable := func(tree string, want bool) {
		t.Helper()
		if is := s.Removable(tree); is != want {
			t.Errorf("%s is removable: %t, want %t", tree, is, want)
		}
	}
	removable(FirstHead, false)
	s.ok(s.restore(one))
	removable(FirstHead, false)
	removable(RestoredTree(one), false)
	s.ok(s.RemoveRecord(one))
	removable(FirstHead, true)
	s.ok(os.WriteFile(filepath.Join(s.Dir.Name(), snapshotRecordName(damaged)), []byte("{"), 0o600))
	removable(FirstHead, false)
}

// The record of another dataset, for example in a folder that was copied by hand, is not taken for that of this one.
func TestRecordOfAnotherDataset(t *testing.T) {
	s := newShelved(t)
	if _, err := ReadRecord(s.Dir, uuid.New()); !errors.Is(err, dataset.ErrCorrupt) {
		t.Error(err)
	}
}
