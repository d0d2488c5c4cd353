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

// Replace makes another tree the head, durably, and the tree that was the head a snapshot: kept names
// it. The record of the snapshot is written first. While it names the head's tree it is no snapshot,
// so the rename that replaces the head also makes it one. Step is called between the two.
//
// When Replace fails and the head is still the old one, the record is removed. When the head is the new
// one, as only a flush failed, the record stays.
func (f *Folder) Replace(kept Kept, fresh Head, step func()) error {
	err := f.WriteKept(kept)
	if err == nil {
		step()
		err = f.SetHead(fresh)
	}
	if err == nil {
		return nil
	}
	if now, hErr := f.Head(); hErr != nil || now.Tree != kept.Tree {
		return err
	}
	if fErr := f.Forget(kept.ID); fErr != nil && !errors.Is(fErr, fs.ErrNotExist) {
		err = fmt.Errorf("%w (the record of snapshot %s stays until the next change: %v)", err, kept.ID, fErr)
	}
	return err
}

// Sweep removes, durably, each record of a snapshot that names the head's tree. Such a record is left
// by a restore or a Supersede that failed or was cut short. It is no snapshot, but it would become one
// with the next head, beside the true one of the same tree. So everything that changes heads or
// snapshots calls Sweep first.
//
// A copy keeps these records: its head is on the way to be that snapshot.
func (f *Folder) Sweep() error {
	if f.State == backends.EntryCopy {
		return nil
	}
	now, err := f.Head()
	if err != nil {
		return err
	}
	by, _, err := f.named(now.Tree)
	if err != nil || len(by) == 0 {
		return err
	}
	for _, id := range by {
		if err := f.Remove(snapshotRecord(id)); err != nil {
			return err
		}
	}
	return SyncDir(f.Root)
}

// Restored tells whether the restore that kept what the head was as snapshot keep has been done: the
// tree that it made is the head, or a snapshot since another restore. dataset.ErrCorrupt: the tree is
// there, and a record that cannot be read may name it.
func (f *Folder) Restored(keep uuid.UUID) (bool, error) {
	tree := RestoredTree(keep)
	now, err := f.Head()
	if err != nil || now.Tree == tree {
		return err == nil, err
	}
	if _, err := f.Lstat(tree); errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	by, damaged, err := f.named(tree)
	if err == nil && len(by) == 0 && len(damaged) > 0 {
		err = dataset.Errorf(dataset.ErrCorrupt,
			"dataset %s: the record of snapshot %s cannot be read, and may be of %s: remove that snapshot, or mend its record",
			f.ID, damaged[0], tree)
	}
	return len(by) > 0, err
}

// Keeps tells whether a snapshot is on record with a tree, or will be once that is no head. A record
// that cannot be read may be it.
func (f *Folder) Keeps(tree string) (bool, error) {
	by, damaged, err := f.named(tree)
	return len(by)+len(damaged) > 0, err
}

// Named tells whether the record of a snapshot names a tree.
func (f *Folder) Named(tree string, snapshot uuid.UUID) (bool, error) {
	by, _, err := f.named(tree)
	return slices.Contains(by, snapshot), err
}

// Removable tells whether a tree is neither the head nor named by a record, and so may be destroyed.
func (f *Folder) Removable(tree string) bool {
	now, err := f.Head()
	if err != nil || now.Tree == tree {
		return false
	}
	keeps, err := f.Keeps(tree)
	return err == nil && !keeps
}

// named returns the snapshots whose records name a tree, and those whose records say nothing.
func (f *Folder) named(tree string) (by, damaged []uuid.UUID, err error) {
	names, err := ReadNames(f.Root, ".")
	if err != nil {
		return nil, nil, err
	}
	for _, name := range names {
		id, ok := snapshotOf(name)
		if !ok {
			continue
		}
		var s Kept
		err := ReadJSON(f.Root, name, &s)
		var read *fs.PathError
		switch {
		case errors.Is(err, fs.ErrNotExist):
		case errors.As(err, &read):
			return nil, nil, err
		case err != nil:
			damaged = append(damaged, id)
		case s.Tree == tree:
			by = append(by, id)
		}
	}
	return by, damaged, nil
}
