package zfs

import (
	"context"
	"errors"

	"github.com/google/uuid"

	"github.com/droverhq/drover/backends"
	"github.com/droverhq/drover/backends/shelf"
	"github.com/droverhq/drover/backends/stream"
	"github.com/droverhq/drover/dataset"
)

// A copy has the same structure as the dataset in its home: a snapshot and its base are in one filesystem, and the base
// is the older of the two. If the base is not the last snapshot of its filesystem, as after a restore, the difference
// is received into a clone of the base. So no filesystem is ever rolled back past one of its snapshots.
//
// Promote makes the head of a copy from a snapshot. If the snapshot is the last one of its filesystem, that filesystem
// becomes the head. Otherwise a clone of the snapshot becomes the head.

// copyHead returns the head of a copy that was promoted, but not committed. The FS of the result is "" if the copy has
// no head.
func copyHead(f *shelf.Folder) (current, error) {
	c, exists, err := readCurrent(f.Dir, f.ID)
	if !exists {
		c.FS = ""
	}
	return c, err
}

// describeCopy adds to the entry of a copy whether the copy is promoted, and which snapshot was received in part.
func describeCopy(f *shelf.Folder, e *backends.Entry) {
	c, err := copyHead(f)
	e.Promoted = err == nil && c.FS != ""
	e.Partial = stream.Partial(f.Dir)
}

// dropHead removes the head of a copy, if it has one. It returns dataset.ErrConflict if the head contains data that is
// in no snapshot.
func (p *Pool) dropHead(ctx context.Context, f *shelf.Folder) error {
	c, err := copyHead(f)
	if err != nil {
		return err
	}
	if c.FS == "" {
		return shelf.SyncDir(f.Dir)
	}
	if err := p.checkSnapshotted(ctx, f, c); err != nil {
		return err
	}
	if err := shelf.WriteJSON(f.Dir, currentName, current{}, true); err != nil {
		return err
	}
	if err := p.dropStaging(f.ID); err != nil {
		return err
	}
	err = p.tool.retryBusy(ctx, "destroy", p.root(f.ID)+"/"+c.FS)
	if errors.Is(err, errAbsent) || errors.Is(err, errHeld) || errors.Is(err, errBusy) {
		return nil // a filesystem with snapshots must stay; Reap destroys a busy one later
	}
	return err
}

// checkSnapshotted returns dataset.ErrConflict if the head of a copy contains data that is in none of its snapshots.
func (p *Pool) checkSnapshotted(ctx context.Context, f *shelf.Folder, c current) error {
	if c.From != uuid.Nil {
		if _, err := readSnapshot(f, c.From); err == nil {
			return nil
		}
	}
	names, err := f.Names(".")
	if err != nil {
		return err
	}
	for _, name := range names {
		id, ok := recordID(name)
		if !ok {
			continue
		}
		if same, err := p.headEquals(ctx, f, c.FS, id); err != nil || same {
			return err
		}
	}
	return dataset.Errorf(dataset.ErrConflict,
		"the copy has a head with data that is in no snapshot of it: it was not changed (keep it as superseded first)")
}

// headEquals reports whether a head has the same content as a snapshot. The folder may be that of a dataset or of a
// copy.
func (p *Pool) headEquals(ctx context.Context, f *shelf.Folder, fs string, snapshot uuid.UUID) (bool, error) {
	s, err := readSnapshot(f, snapshot)
	if err != nil {
		return false, err
	}
	temporary, done, err := p.temporarySnapshot(ctx, f, fs)
	if err != nil {
		return false, err
	}
	defer done()
	_, err = p.differs(ctx, p.snapshotName(f.ID, s.FS, snapshot), temporary)
	if errors.Is(err, errDiffers) || errors.Is(err, errUnrelated) {
		return false, nil
	}
	return err == nil, err
}

// dropSnapshot prepares the removal of a snapshot from a copy. It removes the partly received stream of that snapshot,
// and the head if the copy was promoted to that snapshot.
func (p *Pool) dropSnapshot(ctx context.Context, f *shelf.Folder, snapshot uuid.UUID) error {
	if f.State != backends.EntryCopy {
		return nil
	}
	if err := stream.DropOf(f.Dir, snapshot); err != nil {
		return err
	}
	c, err := copyHead(f)
	if err != nil || c.FS == "" || c.From != snapshot {
		return err
	}
	return p.dropHead(ctx, f)
}

// Promote implements backends.Copier.
func (p *Pool) Promote(ctx context.Context, ds, snapshot uuid.UUID) (err error) {
	defer backends.Wrap(&err, "promote the copy of dataset %s to snapshot %s", ds, snapshot)
	f, err := p.FindDatasetOrCopy(ds)
	if err != nil {
		return err
	}
	defer f.Close()
	if f.State != backends.EntryCopy {
		return nil
	}
	s, err := readSnapshot(f, snapshot)
	if err != nil {
		return err
	}
	c, err := copyHead(f)
	if err != nil {
		return err
	}
	if c.FS != "" && c.From == snapshot {
		return shelf.SyncDir(f.Dir)
	}
	if err := p.dropHead(ctx, f); err != nil {
		return err
	}
	fs, from, options := s.FS, p.snapshotName(f.ID, s.FS, s.ID), headOptions(s.Refquota)
	last := false
	// A snapshot of a former head must be cloned. If its filesystem became the head, readSnapshot would ignore the
	// snapshot.
	if !s.FormerHead {
		if last, err = p.isLast(ctx, f, s); err != nil {
			return err
		}
	}
	if last {
		err = p.reuse(ctx, f, s, options)
	} else {
		fs = headPrefix + uuid.NewString()
		err = p.tool.zfs(ctx, append(append([]string{"clone"}, options...), from, p.root(f.ID)+"/"+fs)...)
	}
	if err != nil {
		return noSpace(err)
	}
	return shelf.WriteJSON(f.Dir, currentName, current{FS: fs, From: snapshot}, true)
}

// reuse prepares a filesystem for another use: it rolls the filesystem back to its last snapshot s, and sets
// properties. The options alternate between "-o" and a property, as for zfs clone.
func (p *Pool) reuse(ctx context.Context, f *shelf.Folder, s snapshot, options []string) error {
	if err := p.dropStaging(f.ID); err != nil {
		return err
	}
	if err := p.tool.retryBusy(ctx, "rollback", p.snapshotName(f.ID, s.FS, s.ID)); err != nil {
		return err
	}
	for i := 1; i < len(options); i += 2 {
		if err := p.tool.zfs(ctx, "set", options[i], p.root(f.ID)+"/"+s.FS); err != nil {
			return err
		}
	}
	return nil
}

// isLast reports whether a snapshot is the last one of its filesystem. It first destroys the later snapshots that a
// crash left, which have neither a record nor a clone.
func (p *Pool) isLast(ctx context.Context, f *shelf.Folder, s snapshot) (bool, error) {
	all, err := p.tool.below(ctx, p.root(f.ID)+"/"+s.FS)
	if err != nil {
		return false, err
	}
	name, passed := p.snapshotName(f.ID, s.FS, s.ID), false
	for _, o := range all {
		if o.kind != kindSnapshot {
			continue
		}
		if o.name == name {
			passed = true
			continue
		}
		if !passed {
			continue
		}
		if !p.isOurs(o) || p.checkUnrecorded(o.name) != nil {
			return false, nil
		}
		err := p.tool.retryBusy(ctx, "destroy", o.name)
		if errors.Is(err, errHeld) || errors.Is(err, errBusy) {
			return false, nil
		}
		if err != nil && !errors.Is(err, errAbsent) {
			return false, err
		}
	}
	if !passed {
		return false, dataset.Errorf(dataset.ErrCorrupt, "%s is missing", name)
	}
	return true, nil
}

// commitCopy makes a promoted copy a ready dataset.
func (p *Pool) commitCopy(f *shelf.Folder) error {
	c, err := copyHead(f)
	if err == nil && c.FS == "" {
		err = shelf.NoHeadError(f.ID)
	}
	if err == nil {
		err = stream.Drop(f.Dir)
	}
	if err == nil {
		err = p.Shelf.Promote(f)
	}
	return err
}

// Demote implements backends.Copier.
func (p *Pool) Demote(ctx context.Context, ds, snapshot uuid.UUID) (err error) {
	defer backends.Wrap(&err, "make dataset %s a copy with snapshot %s", ds, snapshot)
	return p.demote(ctx, ds, func(f *shelf.Folder) (uuid.UUID, error) {
		return snapshot, p.checkHead(ctx, f, snapshot)
	})
}

// checkHead returns dataset.ErrConflict if the head in a folder differs from the snapshot. The folder is that of a
// dataset, or that of a copy whose head an interrupted Demote did not remove. checkHead returns nil for a copy without
// a head.
func (p *Pool) checkHead(ctx context.Context, f *shelf.Folder, snapshot uuid.UUID) error {
	if _, err := readSnapshot(f, snapshot); err != nil {
		return err
	}
	c, exists, err := readCurrent(f.Dir, f.ID)
	if err != nil {
		return err
	}
	if f.State == backends.EntryCopy && (!exists || c.FS == "" || c.From == snapshot) {
		return nil
	}
	same, err := p.headEquals(ctx, f, c.FS, snapshot)
	if err == nil && !same {
		err = dataset.Errorf(dataset.ErrConflict, "it was written to after snapshot %s, and that data would be lost",
			snapshot)
	}
	return err
}

// Supersede implements backends.Copier.
func (p *Pool) Supersede(ctx context.Context, ds uuid.UUID, keep dataset.Snapshot) (err error) {
	defer backends.Wrap(&err, "keep the head of dataset %s as snapshot %s", ds, keep.ID)
	return p.demote(ctx, ds, func(f *shelf.Folder) (is uuid.UUID, err error) {
		if err := p.checkHead(ctx, f, keep.ID); !errors.Is(err, dataset.ErrNotFound) {
			return keep.ID, err
		}
		c, exists, err := readCurrent(f.Dir, f.ID)
		if err != nil {
			return is, err
		}
		if f.State == backends.EntryCopy && (!exists || c.FS == "") {
			return is, dataset.Errorf(dataset.ErrConflict, "it has no head")
		}
		return keep.ID, p.record(ctx, f, keep, c.FS, false)
	})
}

// demote makes a dataset a copy. It calls keep, which returns a snapshot with all data of the head.
//
// The order makes sure that a dataset always has a head: demote first moves the folder with the head to the copies, and
// then removes the head. It returns dataset.ErrInUse if the dataset is in use.
func (p *Pool) demote(ctx context.Context, ds uuid.UUID, keep func(*shelf.Folder) (uuid.UUID, error)) error {
	f, err := p.Shelf.FindDatasetOrCopy(ds)
	if err != nil {
		return err
	}
	defer f.Close()
	if err := p.checkIdle(ds); err != nil {
		return err
	}
	if err := sweep(f); err != nil { // a copy must not keep the records of an interrupted restore
		return err
	}
	equal, err := keep(f)
	if err != nil {
		return noSpace(err)
	}
	c, exists, err := readCurrent(f.Dir, f.ID)
	if err != nil {
		return err
	}
	if exists && c.FS != "" && c.From != equal || !exists && f.State != backends.EntryCopy {
		c.From = equal
		if err := shelf.WriteJSON(f.Dir, currentName, c, true); err != nil {
			return err
		}
	}
	if f.State != backends.EntryCopy {
		if err := p.Shelf.Demote(f); err != nil {
			return err
		}
	}
	return p.dropHead(ctx, f)
}
