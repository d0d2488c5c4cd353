package shelf

import (
	"errors"
	"fmt"
	"io/fs"
	"slices"

	"github.com/google/uuid"

	"github.com/droverhq/drover/backends"
	"github.com/droverhq/drover/dataset"
)

// Replace durably makes the tree newHead the head, and the old head a snapshot. kept is the record of the new snapshot,
// and names the tree of the old head. Replace writes kept first, then calls step, then replaces the head. A record that
// names the tree of the present head does not count as a snapshot. So the one rename that replaces the head also
// creates the snapshot.
//
// If Replace fails and the head is still the old one, it removes the record. If only the flush after the
// rename failed, the head is the new one and the record stays. The error is that of the step that failed.
// The caller must not use the folder concurrently.
func (f *Folder) Replace(kept SnapshotRecord, newHead Head, step func()) error {
	err := f.WriteSnapshot(kept)
	if err == nil {
		step()
		err = f.SetHead(newHead)
	}
	if err == nil {
		return nil
	}
	if current, hErr := f.Head(); hErr != nil || current.Tree != kept.Tree {
		return err
	}
	if fErr := f.RemoveRecord(kept.ID); fErr != nil && !errors.Is(fErr, fs.ErrNotExist) {
		err = fmt.Errorf("%w (the record of snapshot %s stays until the next change: %v)", err, kept.ID, fErr)
	}
	return err
}

// Sweep removes, durably, each snapshot record that names the tree of the head. A restore or a Supersede
// that failed or was interrupted leaves such a record. It does not count as a snapshot, but the next
// change of the head would turn it into a second snapshot of the same tree. So every function that changes
// heads or snapshots calls Sweep first. Idempotent.
//
// Sweep does nothing for a copy (backends.EntryCopy). There, a Supersede that is in progress or was interrupted has
// written such a record. It becomes the record of a snapshot when the Supersede removes the head.
func (f *Folder) Sweep() error {
	if f.State == backends.EntryCopy {
		return nil
	}
	head, err := f.Head()
	if err != nil {
		return err
	}
	keepers, _, err := f.keptBy(head.Tree)
	if err != nil || len(keepers) == 0 {
		return err
	}
	for _, id := range keepers {
		if err := f.Remove(snapshotRecordName(id)); err != nil {
			return err
		}
	}
	return SyncDir(f.Dir)
}

// Restored reports whether a restore is complete. keep is the snapshot that the restore made of the old
// head. The restore is complete if the tree that it created is the head, or belongs to a snapshot because
// a later restore replaced the head again.
//
// It fails with dataset.ErrCorrupt if the tree exists, no readable record names it, and some record cannot be parsed,
// because that record may name the tree. It also fails if the filesystem cannot read a record.
func (f *Folder) Restored(keep uuid.UUID) (bool, error) {
	tree := RestoredTree(keep)
	head, err := f.Head()
	if err != nil || head.Tree == tree {
		return err == nil, err
	}
	if _, err := f.Lstat(tree); errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	keepers, damaged, err := f.keptBy(tree)
	if err == nil && len(keepers) == 0 && len(damaged) > 0 {
		err = dataset.Errorf(dataset.ErrCorrupt,
			"dataset %s: cannot read the record of snapshot %s, which may name %s: remove that snapshot, or "+
				"repair its record",
			f.ID, damaged[0], tree)
	}
	return len(keepers) > 0, err
}

// MayBeSnapshot reports whether the record of any snapshot names a tree, or may name it because it cannot be
// parsed. A record that names the tree of the head counts, although it is not a snapshot yet.
func (f *Folder) MayBeSnapshot(tree string) (bool, error) {
	keepers, damaged, err := f.keptBy(tree)
	return len(keepers)+len(damaged) > 0, err
}

// IsTreeOf reports whether the record of one snapshot names a tree. A record that cannot be parsed does not count.
func (f *Folder) IsTreeOf(tree string, snapshot uuid.UUID) (bool, error) {
	keepers, _, err := f.keptBy(tree)
	return slices.Contains(keepers, snapshot), err
}

// Removable reports whether a tree may be destroyed: it is not the head, and no record may name it. If the head or a
// record cannot be read, it returns false.
func (f *Folder) Removable(tree string) bool {
	head, err := f.Head()
	if err != nil || head.Tree == tree {
		return false
	}
	isKept, err := f.MayBeSnapshot(tree)
	return err == nil && !isKept
}

// keptBy returns the snapshots whose records name a tree, and those whose records cannot be parsed.
func (f *Folder) keptBy(tree string) (keepers, damaged []uuid.UUID, err error) {
	names, err := f.Names(".")
	if err != nil {
		return nil, nil, err
	}
	for _, name := range names {
		id, ok := snapshotOf(name)
		if !ok {
			continue
		}
		var s SnapshotRecord
		err := ReadJSON(f.Dir, name, &s)
		var read *fs.PathError
		switch {
		case errors.Is(err, fs.ErrNotExist):
		case errors.As(err, &read):
			return nil, nil, err
		case err != nil:
			damaged = append(damaged, id)
		case s.Tree == tree:
			keepers = append(keepers, id)
		}
	}
	return keepers, damaged, nil
}
