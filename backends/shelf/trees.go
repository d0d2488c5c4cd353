package shelf

import (
	"errors"
	"io/fs"
	"slices"
	"strings"

	"github.com/google/uuid"

	"github.com/droverhq/drover/backends"
	"github.com/droverhq/drover/backends/stream"
	"github.com/droverhq/drover/dataset"
)

// FirstHead is the name of a dataset's head tree until the first restore.
const FirstHead = "head"

const (
	headPrefix  = "head-"
	snapPrefix  = "snapshot-"
	currentName = "current.json"
	recordEnd   = ".json"
)

// Head records which tree of a folder is the head, for backends that keep heads and snapshots as trees. A folder
// without that record has the head FirstHead.
type Head struct {
	Tree string       `json:"tree"`
	Size dataset.Size `json:"size,omitempty"` // 0 means no limit
	// Project is the project of the filesystem's quotas that the tree belongs to, for backends that enforce sizes with
	// project quotas. 0 means none.
	Project uint32 `json:"project,omitempty"`
	// From is set for the head of a copy. It is a snapshot with the same content: the copy was promoted from this
	// snapshot, or Demote compared the head with it. The value can stay after Commit, and is then outdated once the
	// head is written to.
	From uuid.UUID `json:"from,omitzero"`
}

// SnapshotRecord is the record of a snapshot, with the name of the tree that has its content.
type SnapshotRecord struct {
	dataset.Snapshot
	Tree  string       `json:"tree"`
	Limit dataset.Size `json:"limit,omitempty"` // the size of the head when it became this snapshot; 0 means no limit
	// CopiedHead is set if a restore copied the former head into this snapshot, instead of keeping the tree of the head
	// (see backends.Sharer.RestoreByCopy).
	CopiedHead bool `json:"apart,omitempty"`
	// Stream describes the stream of a received snapshot. It is empty for other snapshots.
	Stream backends.Stream `json:"stream,omitzero"`
}

// Head returns the head of the folder. It fails with dataset.ErrCorrupt if the record cannot be read.
func (f *Folder) Head() (Head, error) {
	var h Head
	err := ReadJSON(f.Dir, currentName, &h)
	if errors.Is(err, fs.ErrNotExist) {
		return Head{Tree: FirstHead}, nil
	}
	if err != nil || !IsTree(h.Tree) || h.Size < 0 {
		return Head{}, dataset.Errorf(dataset.ErrCorrupt, "dataset %s: %s does not name the tree of the head",
			f.ID, currentName)
	}
	return h, nil
}

// HeadSize returns the size of the head.
func (f *Folder) HeadSize() (dataset.Size, error) {
	h, err := f.Head()
	return h.Size, err
}

// SetHead makes a tree the head, durably.
func (f *Folder) SetHead(h Head) error { return f.WriteHead(h, true) }

// WriteHead makes a tree the head. The change is durable when it returns only if sync is set; see WriteJSON.
func (f *Folder) WriteHead(h Head, sync bool) error { return WriteJSON(f.Dir, currentName, h, sync) }

// TreeOf returns the name of the tree in which a new snapshot is stored.
func TreeOf(snapshot uuid.UUID) string { return snapPrefix + snapshot.String() }

// RestoredTree returns the name of the head tree that a restore makes. keep is the snapshot that the restore makes of
// the former head.
func RestoredTree(keep uuid.UUID) string { return headPrefix + keep.String() }

// IsTree reports whether a name has the form of a tree's name. Such a name cannot refer to anything outside the folder.
func IsTree(name string) bool {
	for _, prefix := range []string{headPrefix, snapPrefix} {
		if id, ok := strings.CutPrefix(name, prefix); ok {
			_, err := uuid.Parse(id)
			return err == nil
		}
	}
	return name == FirstHead
}

func snapshotRecordName(id uuid.UUID) string { return snapPrefix + id.String() + recordEnd }

// ReadSnapshot reads the record of a complete snapshot. It fails with dataset.ErrNotFound if there is no record, or if
// the record belongs to a restore that is not complete.
func (f *Folder) ReadSnapshot(id uuid.UUID) (SnapshotRecord, error) {
	var s SnapshotRecord
	err := ReadJSON(f.Dir, snapshotRecordName(id), &s)
	if errors.Is(err, fs.ErrNotExist) {
		return s, dataset.Errorf(dataset.ErrNotFound, "dataset %s has no snapshot %s", f.ID, id)
	}
	if err != nil || s.ID != id || !IsTree(s.Tree) {
		return s, dataset.Errorf(dataset.ErrCorrupt, "dataset %s: cannot read the record of snapshot %s", f.ID, id)
	}
	head, err := f.Head()
	if err != nil {
		return s, err
	}
	if s.Tree == head.Tree {
		return s, dataset.Errorf(dataset.ErrNotFound,
			"dataset %s has no snapshot %s: a restore that would have kept it was interrupted", f.ID, id)
	}
	if _, err := f.Lstat(s.Tree); err != nil {
		return s, dataset.Errorf(dataset.ErrCorrupt, "dataset %s: the data of snapshot %s is missing: "+
			"%w", f.ID, id, err)
	}
	return s, nil
}

// WriteSnapshot durably writes the record of a snapshot.
func (f *Folder) WriteSnapshot(s SnapshotRecord) error {
	return WriteJSON(f.Dir, snapshotRecordName(s.ID), s, true)
}

// RemoveRecord durably removes the record of a snapshot.
func (f *Folder) RemoveRecord(id uuid.UUID) error {
	if err := f.Remove(snapshotRecordName(id)); err != nil {
		return err
	}
	return SyncDir(f.Dir)
}

// Drop removes the record of a snapshot, like RemoveRecord, and returns the name of the tree that the caller must
// destroy. It returns "" if the snapshot does not exist. It also returns "" if another record names the same tree. A
// record that cannot be read counts too, because it may name the tree. Drop calls Sweep first. Idempotent.
func (f *Folder) Drop(id uuid.UUID) (tree string, err error) {
	if err := f.Sweep(); err != nil {
		return "", err
	}
	s, err := f.ReadSnapshot(id)
	if errors.Is(err, dataset.ErrNotFound) {
		return "", SyncDir(f.Dir) // an earlier attempt may have been interrupted before its flush
	}
	if err != nil {
		return "", err
	}
	if err := f.RemoveRecord(id); err != nil {
		return "", err
	}
	if isKept, err := f.MayBeSnapshot(s.Tree); err != nil || isKept {
		return "", err
	}
	return s.Tree, nil
}

// DescribeTrees adds the snapshots in a folder and their problems to an entry.
func DescribeTrees(f *Folder, e *backends.Entry) {
	names, err := f.Names(".")
	if err != nil {
		AddProblem(e, err)
		return
	}
	head, err := f.Head()
	if err == nil && f.State != backends.EntryCopy {
		_, err = f.Lstat(head.Tree)
	}
	if err != nil {
		AddProblem(e, err)
	}
	for _, name := range names {
		id, ok := snapshotOf(name)
		if !ok {
			continue
		}
		s, err := f.ReadSnapshot(id)
		switch {
		case err == nil:
			e.Snapshots = append(e.Snapshots, s.Snapshot)
		case !errors.Is(err, dataset.ErrNotFound):
			AddProblem(e, err)
		}
	}
}

// snapshotOf returns the snapshot whose record is the file name, and false if name is not that of a record.
func snapshotOf(name string) (uuid.UUID, bool) {
	text, ok := strings.CutSuffix(strings.TrimPrefix(name, snapPrefix), recordEnd)
	id, err := uuid.Parse(text)
	return id, ok && err == nil && name == snapshotRecordName(id)
}

// Leftovers returns the remains of a crash in a folder: temporary files, the record of an unfinished restore, and
// trees that belong neither to the head nor to a snapshot. If a record cannot be read, Leftovers names no tree,
// because any of them may belong to that record.
func (f *Folder) Leftovers() ([]string, error) {
	names, err := f.Names(".")
	if err != nil {
		return nil, err
	}
	head, err := f.Head()
	if err != nil {
		return nil, nil // List reports it
	}
	used, sure := map[string]bool{head.Tree: true}, true
	var doomed []string
	for _, name := range names {
		id, ok := snapshotOf(name)
		if !ok {
			continue
		}
		s, err := f.ReadSnapshot(id)
		switch {
		case err == nil:
			used[s.Tree] = true
		case f.State == backends.EntryCopy && s.Tree == head.Tree:
			// A copy cannot be restored, so a Supersede is turning the head into this snapshot.
		case errors.Is(err, dataset.ErrNotFound):
			doomed = append(doomed, name)
		default:
			sure = false
		}
	}
	for _, name := range names {
		if strings.HasPrefix(name, Temp) || (sure && IsTree(name) && !used[name]) {
			doomed = append(doomed, name)
		}
	}
	return doomed, nil
}

// ForeignNames returns the names in a folder that Drover did not make.
func (f *Folder) ForeignNames() ([]string, error) {
	names, err := f.Names(".")
	return slices.DeleteFunc(names, func(name string) bool {
		_, record := snapshotOf(name)
		return record || IsTree(name) || name == RecordFile || name == currentName || name == stream.File ||
			name == stream.RecordFile || strings.HasPrefix(name, Temp)
	}), err
}

// Snapshots returns the complete snapshots of the folder, the newest first. It leaves out a snapshot that cannot be
// read.
func (f *Folder) Snapshots() ([]SnapshotRecord, error) {
	names, err := f.Names(".")
	var out []SnapshotRecord
	for _, name := range names {
		if id, ok := snapshotOf(name); ok {
			if s, err := f.ReadSnapshot(id); err == nil {
				out = append(out, s)
			}
		}
	}
	slices.SortFunc(out, func(a, b SnapshotRecord) int { return b.Created.Compare(a.Created) })
	return out, err
}
