package shelf

import (
	"errors"
	"io/fs"
	"slices"
	"strings"

	"github.com/google/uuid"

	"github.com/droverhq/drover/backends"
	"github.com/droverhq/drover/backends/spool"
	"github.com/droverhq/drover/dataset"
)

// FirstHead is the tree of a head until a restore.
const FirstHead = "head"

const (
	headPrefix  = "head-"
	snapPrefix  = "snapshot-"
	currentName = "current.json"
	recordEnd   = ".json"
)

// Head says which tree of a folder is the head, for backends that keep heads and
// snapshots as trees. The zero value means a folder without that file: FirstHead.
type Head struct {
	Tree string       `json:"tree"`
	Size dataset.Size `json:"size,omitempty"` // 0: no limit
	// Project is that of the filesystem's quotas which the tree is in, for backends that
	// keep sizes so; 0: none.
	Project uint32 `json:"project,omitempty"`
	// From is the snapshot that a copy's head is, as that was promoted from it or compared
	// before it became a copy.
	From uuid.UUID `json:"from,omitzero"`
}

// Kept is a recorded snapshot, with the place of its tree.
type Kept struct {
	dataset.Snapshot
	Tree  string       `json:"tree"`
	Limit dataset.Size `json:"limit,omitempty"` // the size of the head that it was; 0: none
	// Apart says that a restore kept it, and that it is a copy of the head that was.
	Apart bool `json:"apart,omitempty"`
	// Stream is the stream that it came by, for one that did.
	Stream backends.Stream `json:"stream,omitzero"`
}

// Head returns the tree of the head. dataset.ErrCorrupt: the head is not recorded.
func (f *Folder) Head() (Head, error) {
	var h Head
	err := ReadJSON(f.Root, currentName, &h)
	if errors.Is(err, fs.ErrNotExist) {
		return Head{Tree: FirstHead}, nil
	}
	if err != nil || !IsTree(h.Tree) || h.Size < 0 {
		return Head{}, dataset.Errorf(dataset.ErrCorrupt, "dataset %s: %s does not say which tree is the head",
			f.ID, currentName)
	}
	return h, nil
}

// SetHead makes a tree the head, durably.
func (f *Folder) SetHead(h Head) error { return f.WriteHead(h, true) }

// WriteHead is SetHead; see WriteJSON for sync.
func (f *Folder) WriteHead(h Head, sync bool) error { return WriteJSON(f.Root, currentName, h, sync) }

// TreeOf is the tree that a snapshot is taken into.
func TreeOf(snapshot uuid.UUID) string { return snapPrefix + snapshot.String() }

// RestoredTree is the tree that becomes the head by a restore, named after the snapshot that keeps the former head.
func RestoredTree(keep uuid.UUID) string { return headPrefix + keep.String() }

// IsTree says whether a name is that of a tree, and so no path to elsewhere.
func IsTree(name string) bool {
	for _, prefix := range []string{headPrefix, snapPrefix} {
		if id, ok := strings.CutPrefix(name, prefix); ok {
			_, err := uuid.Parse(id)
			return err == nil
		}
	}
	return name == FirstHead
}

func snapshotRecord(id uuid.UUID) string { return snapPrefix + id.String() + recordEnd }

// Kept reads a whole snapshot: dataset.ErrNotFound when there is none, which the one of
// a restore that was not finished is not.
func (f *Folder) Kept(id uuid.UUID) (Kept, error) {
	var s Kept
	err := ReadJSON(f.Root, snapshotRecord(id), &s)
	if errors.Is(err, fs.ErrNotExist) {
		return s, dataset.Errorf(dataset.ErrNotFound, "dataset %s has no snapshot %s", f.ID, id)
	}
	if err != nil || s.ID != id || !IsTree(s.Tree) {
		return s, dataset.Errorf(dataset.ErrCorrupt, "dataset %s: the record of snapshot %s cannot be read", f.ID, id)
	}
	now, err := f.Head()
	if err != nil {
		return s, err
	}
	if s.Tree == now.Tree {
		return s, dataset.Errorf(dataset.ErrNotFound,
			"dataset %s has no snapshot %s: a restore that would have kept it was cut short", f.ID, id)
	}
	if _, err := f.Lstat(s.Tree); err != nil {
		return s, dataset.Errorf(dataset.ErrCorrupt, "dataset %s: the bytes of snapshot %s are gone: %w", f.ID, id, err)
	}
	return s, nil
}

// WriteKept records a snapshot durably.
func (f *Folder) WriteKept(s Kept) error { return WriteJSON(f.Root, snapshotRecord(s.ID), s, true) }

// Forget takes a snapshot off the record, durably.
func (f *Folder) Forget(id uuid.UUID) error {
	if err := f.Remove(snapshotRecord(id)); err != nil {
		return err
	}
	return SyncDir(f.Root)
}

// Drop is Forget, and returns the tree to destroy. It is "" when the snapshot is not there, and when
// another record names the tree, or may name it, as it cannot be read.
func (f *Folder) Drop(id uuid.UUID) (tree string, err error) {
	if err := f.Sweep(); err != nil {
		return "", err
	}
	s, err := f.Kept(id)
	if errors.Is(err, dataset.ErrNotFound) {
		return "", SyncDir(f.Root) // an earlier try may have been cut short before that
	}
	if err != nil {
		return "", err
	}
	if err := f.Forget(id); err != nil {
		return "", err
	}
	if keeps, err := f.Keeps(s.Tree); err != nil || keeps {
		return "", err
	}
	return s.Tree, nil
}

// DescribeTrees adds to an entry its snapshots and their problems.
func DescribeTrees(f *Folder, e *backends.Entry) {
	names, err := ReadNames(f.Root, ".")
	if err != nil {
		AddProblem(e, err)
		return
	}
	now, err := f.Head()
	if err == nil && f.State != backends.EntryCopy {
		_, err = f.Lstat(now.Tree)
	}
	if err != nil {
		AddProblem(e, err)
	}
	for _, name := range names {
		id, ok := snapshotOf(name)
		if !ok {
			continue
		}
		s, err := f.Kept(id)
		switch {
		case err == nil:
			e.Snapshots = append(e.Snapshots, s.Snapshot)
		case !errors.Is(err, dataset.ErrNotFound):
			AddProblem(e, err)
		}
	}
}

// snapshotOf returns the snapshot whose record has that name.
func snapshotOf(name string) (uuid.UUID, bool) {
	text, ok := strings.CutSuffix(strings.TrimPrefix(name, snapPrefix), recordEnd)
	id, err := uuid.Parse(text)
	return id, ok && err == nil && name == snapshotRecord(id)
}

// Leftovers returns the remains of a crash in a folder: temporary files, the record of an unfinished restore,
// and trees that belong neither to the head nor to a snapshot. Where a record cannot be read it names no
// tree: it may be its.
func (f *Folder) Leftovers() ([]string, error) {
	names, err := ReadNames(f.Root, ".")
	if err != nil {
		return nil, err
	}
	now, err := f.Head()
	if err != nil {
		return nil, nil // List says so
	}
	used, sure := map[string]bool{now.Tree: true}, true
	var doomed []string
	for _, name := range names {
		id, ok := snapshotOf(name)
		if !ok {
			continue
		}
		s, err := f.Kept(id)
		switch {
		case err == nil:
			used[s.Tree] = true
		case f.State == backends.EntryCopy && s.Tree == now.Tree:
			// no restore, which copies have none of: the head is on its way to be that snapshot
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

// Strangers returns the names in a folder that are not Drover's.
func (f *Folder) Strangers() ([]string, error) {
	names, err := ReadNames(f.Root, ".")
	return slices.DeleteFunc(names, func(name string) bool {
		_, record := snapshotOf(name)
		return record || IsTree(name) || name == recordName || name == currentName || name == spool.File ||
			name == spool.RecordFile || strings.HasPrefix(name, Temp)
	}), err
}

// Headless durably records that no tree of the folder is the head.
func (f *Folder) Headless() error {
	return f.SetHead(Head{Tree: RestoredTree(uuid.New())})
}

// Snapshots returns the whole snapshots of the folder, the newest first. It leaves out a snapshot that cannot be read.
func (f *Folder) Snapshots() ([]Kept, error) {
	names, err := ReadNames(f.Root, ".")
	var out []Kept
	for _, name := range names {
		if id, ok := snapshotOf(name); ok {
			if s, err := f.Kept(id); err == nil {
				out = append(out, s)
			}
		}
	}
	slices.SortFunc(out, func(a, b Kept) int { return b.Created.Compare(a.Created) })
	return out, err
}
