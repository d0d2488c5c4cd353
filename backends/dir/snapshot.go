package dir

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"strings"

	"github.com/google/uuid"

	"github.com/droverhq/drover/backends"
	"github.com/droverhq/drover/backends/shelf"
	"github.com/droverhq/drover/dataset"
)

const (
	firstHead   = "head"
	headPrefix  = "head-"
	snapPrefix  = "snapshot-"
	currentName = "current.json"
	recordEnd   = ".json"
)

// current says which tree is the head.
type current struct {
	Tree string `json:"tree"`
}

// head returns the name of the head's tree.
func head(f *shelf.Folder) (string, error) {
	var c current
	err := shelf.ReadJSON(f.Root, currentName, &c)
	if errors.Is(err, fs.ErrNotExist) {
		return firstHead, nil
	}
	if err != nil || !isTree(c.Tree) {
		return "", dataset.Errorf(dataset.ErrCorrupt, "dataset %s: %s does not say which tree is the head", f.ID, currentName)
	}
	return c.Tree, nil
}

// isTree says whether a name is that of a tree, and so no path to elsewhere.
func isTree(name string) bool {
	for _, prefix := range []string{headPrefix, snapPrefix} {
		if id, ok := strings.CutPrefix(name, prefix); ok {
			_, err := uuid.Parse(id)
			return err == nil
		}
	}
	return name == firstHead
}

// snapshot is a snapshot on record, with where its tree is.
type snapshot struct {
	dataset.Snapshot
	Tree string `json:"tree"`
}

func recordOf(id uuid.UUID) string { return snapPrefix + id.String() + recordEnd }

// readSnapshot reads a whole snapshot: dataset.ErrNotFound when there is none,
// which the one of a restore that was not finished is not.
func readSnapshot(f *shelf.Folder, id uuid.UUID) (snapshot, error) {
	var s snapshot
	err := shelf.ReadJSON(f.Root, recordOf(id), &s)
	if errors.Is(err, fs.ErrNotExist) {
		return s, dataset.Errorf(dataset.ErrNotFound, "dataset %s has no snapshot %s", f.ID, id)
	}
	if err != nil || s.ID != id || !isTree(s.Tree) {
		return s, dataset.Errorf(dataset.ErrCorrupt, "dataset %s: the record of snapshot %s cannot be read", f.ID, id)
	}
	now, err := head(f)
	if err != nil {
		return s, err
	}
	if s.Tree == now {
		return s, dataset.Errorf(dataset.ErrNotFound, "dataset %s has no snapshot %s: a restore that would have kept it was cut short", f.ID, id)
	}
	if _, err := f.Lstat(s.Tree); err != nil {
		return s, dataset.Errorf(dataset.ErrCorrupt, "dataset %s: the bytes of snapshot %s are gone: %w", f.ID, id, err)
	}
	return s, nil
}

// Snapshot implements backends.Pool. It copies: dataset.ErrInUse while the
// dataset is attached or mounted.
func (p *Pool) Snapshot(ctx context.Context, s dataset.Snapshot, progress backends.Progress) error {
	f, err := p.shelf.Find(s.Dataset)
	if err != nil {
		return err
	}
	defer f.Close()
	if _, err := readSnapshot(f, s.ID); err == nil {
		return shelf.SyncDir(f.Root) // an earlier try may have been cut short before that
	} else if !errors.Is(err, dataset.ErrNotFound) {
		return err
	}
	if err := p.room(); err != nil {
		return err
	}
	if err := p.idle(f, "copied"); err != nil {
		return err
	}
	from, err := head(f)
	if err != nil {
		return err
	}
	name := snapPrefix + s.ID.String()
	if err := p.copyTree(ctx, f, from, f, name, progress); err != nil {
		return fmt.Errorf("snapshot %s: %w", s.ID, err)
	}
	return shelf.WriteJSON(f.Root, recordOf(s.ID), snapshot{s, name}, true)
}

// DeleteSnapshot implements backends.Pool. Its record goes first.
func (p *Pool) DeleteSnapshot(ctx context.Context, ds, id uuid.UUID) error {
	f, err := p.shelf.Find(ds)
	if errors.Is(err, dataset.ErrNotFound) {
		return nil
	}
	if err != nil {
		return err
	}
	defer f.Close()
	s, err := readSnapshot(f, id)
	if errors.Is(err, dataset.ErrNotFound) {
		return shelf.SyncDir(f.Root) // an earlier try may have been cut short before that
	}
	if err != nil {
		return err
	}
	if err := f.Remove(recordOf(id)); err != nil {
		return err
	}
	if err := shelf.SyncDir(f.Root); err != nil {
		return err
	}
	return removeAll(ctx, f, s.Tree)
}

// Restore implements backends.Pool; the package comment says how.
func (p *Pool) Restore(ctx context.Context, ds, id uuid.UUID, keep dataset.Snapshot, progress backends.Progress) error {
	f, err := p.shelf.Find(ds)
	if err != nil {
		return err
	}
	defer f.Close()
	done, err := readSnapshot(f, keep.ID)
	switch {
	case errors.Is(err, dataset.ErrNotFound):
	case err != nil:
		return err
	case done.Tree != snapPrefix+keep.ID.String():
		return shelf.SyncDir(f.Root) // done before: what the head was is kept
	default: // a copy, which is no more what the head is once that was written to
		if err := p.DeleteSnapshot(ctx, ds, keep.ID); err != nil {
			return err
		}
	}
	s, err := readSnapshot(f, id)
	if err != nil {
		return err
	}
	if err := p.idle(f, "restored"); err != nil {
		return err
	}
	old, err := head(f)
	if err != nil {
		return err
	}
	fresh := headPrefix + keep.ID.String()
	if old == fresh {
		return shelf.SyncDir(f.Root) // done before, and what it kept has been deleted since
	}
	if err := p.copyTree(ctx, f, s.Tree, f, fresh, progress); err != nil {
		return fmt.Errorf("restore snapshot %s: %w", id, err)
	}
	if err := shelf.WriteJSON(f.Root, recordOf(keep.ID), snapshot{keep, old}, true); err != nil {
		return err
	}
	return shelf.WriteJSON(f.Root, currentName, current{fresh}, true)
}
