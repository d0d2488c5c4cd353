package zfs

import (
	"context"
	"errors"
	"fmt"
	"io"

	"github.com/google/uuid"

	"github.com/droverhq/drover/backends"
	"github.com/droverhq/drover/backends/shelf"
	"github.com/droverhq/drover/backends/spool"
	"github.com/droverhq/drover/backends/zfs/sendstream"
	"github.com/droverhq/drover/dataset"
)

// heads exchanges and removes the filesystems that containers see, when a copy becomes the dataset or the reverse.
type heads struct {
	*storage
	attachments *attachments
	remover     *remover
	sender      *sender
}

// A copy has its snapshots where its home has them, each behind its base in one filesystem. A difference to
// an older snapshot than the last one, as after a restore, is received into a clone of its base: no
// filesystem here is ever rolled back to before one of its snapshots. A filesystem of a copy becomes its head
// if the snapshot is the last in it; otherwise a clone of the snapshot does.

// copyHead returns the head that a copy has, of a promotion that is not committed; "": none.
func copyHead(f *shelf.Folder) (current, error) {
	c, there, err := readCurrent(f.Root, f.ID)
	if !there {
		c.FS = ""
	}
	return c, err
}

// describeCopy adds to the entry of a copy what else it has.
func describeCopy(f *shelf.Folder, e *backends.Entry) {
	c, err := copyHead(f)
	e.Promoted = err == nil && c.FS != ""
	e.Partial = spool.Partial(f.Root)
}

// dropHead takes the head from a copy, if it has one. dataset.ErrConflict: the head has data that no snapshot has.
func (h *heads) dropHead(ctx context.Context, f *shelf.Folder) error {
	c, err := copyHead(f)
	if err != nil {
		return err
	}
	if c.FS == "" {
		return shelf.SyncDir(f.Root)
	}
	if err := h.spare(ctx, f, c); err != nil {
		return err
	}
	if err := shelf.WriteJSON(f.Root, currentName, current{}, true); err != nil {
		return err
	}
	if err := h.attachments.released(f.ID); err != nil {
		return err
	}
	err = h.tool.patiently(ctx, "destroy", h.root(f.ID)+"/"+c.FS)
	if errors.Is(err, errAbsent) || errors.Is(err, errHeld) || errors.Is(err, errBusy) {
		return nil // it has snapshots; or Reap destroys it
	}
	return err
}

// spare fails with ErrConflict if the head of a copy has data that no snapshot has.
func (h *heads) spare(ctx context.Context, f *shelf.Folder, c current) error {
	if c.From != uuid.Nil {
		if _, err := readSnapshot(f, c.From); err == nil {
			return nil
		}
	}
	names, err := shelf.ReadNames(f.Root, ".")
	if err != nil {
		return err
	}
	for _, name := range names {
		id, ok := recordID(name)
		if !ok {
			continue
		}
		if same, err := h.headIs(ctx, f, c.FS, id); err != nil || same {
			return err
		}
	}
	return dataset.Errorf(dataset.ErrConflict,
		"the copy has a head with bytes that no snapshot of it has: it was left as it is (keep it as superseded first)")
}

// headIs reports whether a head has the content of a snapshot, wherever its folder is.
func (h *heads) headIs(ctx context.Context, f *shelf.Folder, fs string, snapshot uuid.UUID) (bool, error) {
	s, err := readSnapshot(f, snapshot)
	if err != nil {
		return false, err
	}
	now, done, err := h.sender.frozen(ctx, f, fs)
	if err != nil {
		return false, err
	}
	defer done()
	_, err = h.sender.differs(ctx, h.snapshotName(f.ID, s.FS, snapshot), now)
	if errors.Is(err, sendstream.ErrDiffers) || errors.Is(err, errUnrelated) {
		return false, nil
	}
	return err == nil, err
}

// dropOf removes the other records of a snapshot that is removed from a copy: its received part, and that it
// is the head.
func (h *heads) dropOf(ctx context.Context, f *shelf.Folder, snapshot uuid.UUID) error {
	if f.State != backends.EntryCopy {
		return nil
	}
	if err := spool.DropOf(f.Root, snapshot); err != nil {
		return err
	}
	c, err := copyHead(f)
	if err != nil || c.FS == "" || c.From != snapshot {
		return err
	}
	return h.dropHead(ctx, f)
}

// Promote implements backends.Copier.
func (p *Pool) Promote(ctx context.Context, ds, snapshot uuid.UUID) error {
	f, err := p.shelf.FindAny(ds)
	if err == nil {
		defer f.Close()
		err = p.heads.promote(ctx, f, snapshot)
	}
	if err != nil {
		return fmt.Errorf("promote the copy of dataset %s to snapshot %s: %w", ds, snapshot, noSpace(err))
	}
	return nil
}

func (h *heads) promote(ctx context.Context, f *shelf.Folder, snapshot uuid.UUID) error {
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
		return shelf.SyncDir(f.Root)
	}
	if err := h.dropHead(ctx, f); err != nil {
		return err
	}
	fs, from, options := s.FS, h.snapshotName(f.ID, s.FS, s.ID), headOptions(s.Refquota)
	last := false
	if !s.Kept { // while its filesystem is the head, it means that a restore was interrupted
		if last, err = h.isLast(ctx, f, s); err != nil {
			return err
		}
	}
	if last {
		err = h.refit(ctx, f, s, options)
	} else {
		fs = headPrefix + uuid.NewString()
		err = h.tool.zfs(ctx, append(append([]string{"clone"}, options...), from, h.root(f.ID)+"/"+fs)...)
	}
	if err != nil {
		return err
	}
	return shelf.WriteJSON(f.Root, currentName, current{FS: fs, From: snapshot}, true)
}

// refit makes a filesystem what its last snapshot is, with options: pairs of -o and a property.
func (h *heads) refit(ctx context.Context, f *shelf.Folder, s snapshot, options []string) error {
	if err := h.attachments.released(f.ID); err != nil {
		return err
	}
	if err := h.tool.patiently(ctx, "rollback", h.snapshotName(f.ID, s.FS, s.ID)); err != nil {
		return err
	}
	for i := 1; i < len(options); i += 2 {
		if err := h.tool.zfs(ctx, "set", options[i], h.root(f.ID)+"/"+s.FS); err != nil {
			return err
		}
	}
	return nil
}

// isLast reports whether a snapshot is the last of its filesystem. Before that it destroys later snapshots
// that a crash left: those that no record names and no clone needs.
func (h *heads) isLast(ctx context.Context, f *shelf.Folder, s snapshot) (bool, error) {
	all, err := h.tool.below(ctx, h.root(f.ID)+"/"+s.FS)
	if err != nil {
		return false, err
	}
	name, behind := h.snapshotName(f.ID, s.FS, s.ID), false
	for _, o := range all {
		if o.kind != kindSnapshot {
			continue
		}
		if o.name == name {
			behind = true
			continue
		}
		if !behind {
			continue
		}
		if !h.remover.made(o) || h.remover.forgotten(o.name) != nil {
			return false, nil
		}
		err := h.tool.patiently(ctx, "destroy", o.name)
		if errors.Is(err, errHeld) || errors.Is(err, errBusy) {
			return false, nil
		}
		if err != nil && !errors.Is(err, errAbsent) {
			return false, err
		}
	}
	if !behind {
		return false, dataset.Errorf(dataset.ErrCorrupt, "%s is gone", name)
	}
	return true, nil
}

// commitCopy makes a copy that was promoted the dataset's home.
func (h *heads) commitCopy(f *shelf.Folder) error {
	c, err := copyHead(f)
	if err == nil && c.FS == "" {
		err = f.NoHead()
	}
	if err == nil {
		err = spool.Drop(f.Root)
	}
	if err == nil {
		err = h.shelf.Promote(f)
	}
	return err
}

// Demote implements backends.Copier.
func (p *Pool) Demote(ctx context.Context, ds, snapshot uuid.UUID) error {
	err := p.heads.demote(ctx, ds, func(f *shelf.Folder) (uuid.UUID, error) {
		return snapshot, p.heads.isHead(ctx, f, snapshot)
	})
	if err != nil {
		return fmt.Errorf("make dataset %s a copy with snapshot %s: %w", ds, snapshot, err)
	}
	return nil
}

// isHead fails with ErrConflict when the head of a dataset, or one that its copy still has, is
// not what its snapshot is.
func (h *heads) isHead(ctx context.Context, f *shelf.Folder, snapshot uuid.UUID) error {
	if _, err := readSnapshot(f, snapshot); err != nil {
		return err
	}
	c, there, err := readCurrent(f.Root, f.ID)
	if err != nil {
		return err
	}
	if f.State == backends.EntryCopy && (!there || c.FS == "" || c.From == snapshot) {
		return nil
	}
	same, err := h.headIs(ctx, f, c.FS, snapshot)
	if err == nil && !same {
		err = dataset.Errorf(dataset.ErrConflict, "it was written to after snapshot %s, and that would be lost",
			snapshot)
	}
	return err
}

// Supersede implements backends.Copier.
func (p *Pool) Supersede(ctx context.Context, ds uuid.UUID, keep dataset.Snapshot) error {
	err := p.heads.demote(ctx, ds, func(f *shelf.Folder) (is uuid.UUID, err error) {
		if err := p.heads.isHead(ctx, f, keep.ID); !errors.Is(err, dataset.ErrNotFound) {
			return keep.ID, err
		}
		c, there, err := readCurrent(f.Root, f.ID)
		if err != nil {
			return is, err
		}
		if f.State == backends.EntryCopy && (!there || c.FS == "") {
			return is, dataset.Errorf(dataset.ErrConflict, "there is no head")
		}
		return keep.ID, p.snapshotter.record(ctx, f, keep, c.FS, false)
	})
	if err != nil {
		return fmt.Errorf("keep the head of dataset %s as snapshot %s: %w", ds, keep.ID, err)
	}
	return nil
}

// demote makes a dataset, whose head is one of its snapshots once keep is done, a copy: it moves
// there with its head, which is taken from it then, so that it is never a dataset without one.
// Keep returns the snapshot that has all that the head has.
func (h *heads) demote(ctx context.Context, ds uuid.UUID, keep func(*shelf.Folder) (uuid.UUID, error)) error {
	f, err := h.shelf.FindAny(ds)
	if err != nil {
		return err
	}
	defer f.Close()
	if err := h.attachments.unused(ds); err != nil {
		return err
	}
	if err := sweep(f); err != nil { // a restore that was cut short is none of a copy
		return err
	}
	is, err := keep(f)
	if err != nil {
		return noSpace(err)
	}
	c, there, err := readCurrent(f.Root, f.ID)
	if err != nil {
		return err
	}
	if there && c.FS != "" && c.From != is || !there && f.State != backends.EntryCopy {
		c.From = is
		if err := shelf.WriteJSON(f.Root, currentName, c, true); err != nil {
			return err
		}
	}
	if f.State != backends.EntryCopy {
		if err := h.shelf.Demote(f); err != nil {
			return err
		}
	}
	return h.dropHead(ctx, f)
}

// Receive implements backends.Copier: the stream is gathered in a file, and given to zfs once it is complete
// and verified.
func (p *Pool) Receive(ctx context.Context, d backends.Delivery, r io.Reader,
	progress backends.Progress) (backends.Stream, error) {
	out, err := p.receiver.receive(ctx, d, r, progress)
	if err != nil {
		return out, fmt.Errorf("receive snapshot %s of dataset %s: %w", d.Snapshot.ID, d.Dataset.ID, noSpace(err))
	}
	return out, nil
}
