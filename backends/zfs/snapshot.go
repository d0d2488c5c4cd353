package zfs

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
	"github.com/droverhq/drover/internal/safefile"
)

const (
	firstHead   = "head"
	headPrefix  = "head-"
	snapPrefix  = "drover-"
	clonePrefix = "drover-clone-"

	currentName  = "current.json"
	recordPrefix = "snapshot-"
	recordEnd    = ".json"
)

// current is the content of current.json: it names the filesystem that is the head.
type current struct {
	FS string `json:"fs"` // "" for a copy without a head
	// From is a snapshot with the same content as the head. It is set for a copy: Promote made the head from this
	// snapshot, or Demote compared the head with it. The value can stay after Commit, and is then outdated once the
	// head is written to.
	From uuid.UUID `json:"from,omitzero"`
}

// readCurrent reads current.json. exists reports whether the file exists. If the file does not exist, the result is the
// head of a new dataset. For a copy that result is wrong, because a copy without the file has no head: see copyHead.
func readCurrent(folder safefile.Dir, id uuid.UUID) (c current, exists bool, err error) {
	err = shelf.ReadJSON(folder, currentName, &c)
	if errors.Is(err, fs.ErrNotExist) {
		return current{FS: firstHead}, false, nil
	}
	if err != nil || c.FS != "" && !isHead(c.FS) {
		return current{}, false, dataset.Errorf(dataset.ErrCorrupt,
			"dataset %s: %s does not name the filesystem of the head", id, currentName)
	}
	return c, true, nil
}

// headName returns the name of the head, relative to the dataset's filesystem. It returns "" for a copy that had a head
// once and has none now.
func headName(folder safefile.Dir, id uuid.UUID) (string, error) {
	c, _, err := readCurrent(folder, id)
	return c.FS, err
}

func isHead(name string) bool {
	text, ok := strings.CutPrefix(name, headPrefix)
	return name == firstHead || ok && isID(text)
}

func isID(text string) bool {
	id, err := uuid.Parse(text)
	return err == nil && id.String() == text
}

// isSnapshot reports whether name has the form of the name of one of Drover's snapshots.
func isSnapshot(name string) bool {
	text, ok := strings.CutPrefix(name, clonePrefix)
	if !ok {
		text, ok = strings.CutPrefix(name, snapPrefix)
	}
	return ok && isID(text)
}

// snapshot is the content of the record of a snapshot.
type snapshot struct {
	dataset.Snapshot
	FS         string       `json:"fs"`
	Refquota   dataset.Size `json:"refquota"`       // the size of the dataset when the snapshot was taken
	FormerHead bool         `json:"kept,omitempty"` // a restore took it of the former head: see readSnapshot
	// Stream describes the stream of a received snapshot. It is empty if the snapshot was taken in this pool.
	Stream backends.Stream `json:"stream,omitzero"`
}

func recordOf(id uuid.UUID) string { return recordPrefix + id.String() + recordEnd }

// readSnapshot reads the record of a snapshot. It returns dataset.ErrNotFound if there is none.
//
// A restore first writes the record of the snapshot that keeps the former head, and then exchanges the head. If the
// restore was interrupted in between, the record names a filesystem that is still the head. readSnapshot returns
// dataset.ErrNotFound for such a record too.
func readSnapshot(f *shelf.Folder, id uuid.UUID) (snapshot, error) {
	var s snapshot
	err := shelf.ReadJSON(f.Dir, recordOf(id), &s)
	if errors.Is(err, fs.ErrNotExist) {
		return s, dataset.Errorf(dataset.ErrNotFound, "dataset %s has no snapshot %s", f.ID, id)
	}
	if err != nil || s.ID != id || !isHead(s.FS) {
		return s, dataset.Errorf(dataset.ErrCorrupt, "dataset %s: cannot read the record of snapshot %s", f.ID, id)
	}
	if !s.FormerHead {
		return s, nil
	}
	head, err := headName(f.Dir, f.ID)
	if err == nil && head == s.FS {
		err = dataset.Errorf(dataset.ErrNotFound,
			"dataset %s has no snapshot %s: a restore that would have kept it was interrupted", f.ID, id)
	}
	return s, err
}

// Snapshot implements backends.Pool.
func (p *Pool) Snapshot(ctx context.Context, s dataset.Snapshot, _ backends.Progress) (err error) {
	defer backends.Wrap(&err, "snapshot %s", s.ID)
	f, err := p.FindDataset(s.Dataset)
	if err != nil {
		return err
	}
	defer f.Close()
	if err := sweep(f); err != nil {
		return err
	}
	if _, err := readSnapshot(f, s.ID); err == nil {
		return shelf.SyncDir(f.Dir) // an earlier attempt may have been interrupted before its flush
	} else if !errors.Is(err, dataset.ErrNotFound) {
		return err
	}
	if s.Kind != dataset.SnapshotTransfer { // moving a dataset out of a full pool frees space
		if err := p.room(); err != nil {
			return err
		}
	}
	head, err := headName(f.Dir, f.ID)
	if err != nil {
		return err
	}
	return noSpace(p.record(ctx, f, s, head, false))
}

// record takes a snapshot of a filesystem, then writes its record.
func (p *Pool) record(
	ctx context.Context, f *shelf.Folder, s dataset.Snapshot, fs string, isFormerHead bool,
) error {
	o, err := p.tool.object(ctx, p.root(f.ID)+"/"+fs)
	if err != nil {
		return err
	}
	exact, err := backends.Frozen(ctx,
		func() error { return p.retakeSnapshot(ctx, p.snapshotName(f.ID, fs, s.ID)) })
	if err != nil {
		return err
	}
	s.Exact = s.Exact || exact
	return shelf.WriteJSON(f.Dir, recordOf(s.ID),
		snapshot{Snapshot: s, FS: fs, Refquota: o.refquota, FormerHead: isFormerHead},
		true)
}

// DeleteSnapshot implements backends.Pool. It removes the record first. If the snapshot has clones, its blocks stay
// until the last clone is deleted.
func (p *Pool) DeleteSnapshot(ctx context.Context, ds, id uuid.UUID) error {
	f, err := p.Shelf.FindDatasetOrCopy(ds)
	if errors.Is(err, dataset.ErrNotFound) {
		return nil
	}
	if err != nil {
		return err
	}
	defer f.Close()
	if err := p.dropSnapshot(ctx, f, id); err != nil {
		return fmt.Errorf("delete snapshot %s: %w", id, err)
	}
	if err := sweep(f); err != nil {
		return err
	}
	s, err := readSnapshot(f, id)
	if errors.Is(err, dataset.ErrNotFound) {
		return shelf.SyncDir(f.Dir) // an earlier attempt may have been interrupted before its flush
	}
	if err != nil {
		return err
	}
	if err := f.Remove(recordOf(id)); err != nil {
		return err
	}
	if err := shelf.SyncDir(f.Dir); err != nil {
		return err
	}
	if err := p.release(ctx, p.snapshotName(ds, s.FS, id)); err != nil && ctx.Err() == nil {
		return fmt.Errorf("snapshot %s was deleted, but not its blocks: %w", id, err)
	}
	return nil
}

// Restore implements backends.Pool. It makes a clone of the snapshot id. It then takes the snapshot keep of the head,
// and leaves the filesystem of the head unchanged. The clone becomes the head when Restore replaces current.json.
func (p *Pool) Restore(ctx context.Context, ds, id uuid.UUID, keep dataset.Snapshot, _ backends.Progress) error {
	f, err := p.Shelf.FindDataset(ds)
	if err != nil {
		return err
	}
	defer f.Close()
	if err := sweep(f); err != nil {
		return err
	}
	done, err := readSnapshot(f, keep.ID)
	switch {
	case errors.Is(err, dataset.ErrNotFound):
	case err != nil:
		return err
	case done.FormerHead:
		return shelf.SyncDir(f.Dir) // an earlier call has completed the restore
	default: // an earlier attempt took the snapshot keep, and the head may have changed since: take it again
		if err := p.DeleteSnapshot(ctx, ds, keep.ID); err != nil {
			return err
		}
	}
	head, err := p.headOf(ctx, f)
	if err != nil {
		return err
	}
	oldFS, newFS := strings.TrimPrefix(head.name, p.root(ds)+"/"), headPrefix+keep.ID.String()
	since, err := recordsOf(f, func(s snapshot) bool { return s.FS == newFS })
	if err != nil {
		return err
	}
	if oldFS == newFS || len(since) > 0 {
		return shelf.SyncDir(f.Dir) // an earlier call has completed the restore, and keep was deleted later
	}
	s, err := readSnapshot(f, id)
	if err != nil {
		return err
	}
	if err := p.checkIdle(ds); err != nil {
		return err
	}
	if err := p.swap(ctx, f, s, keep, oldFS, newFS, head.refquota); err != nil {
		return fmt.Errorf("restore snapshot %s: %w", id, noSpace(err))
	}
	return nil
}

// swap makes a clone of s the head, with the name newFS and the size of the former head oldFS.
func (p *Pool) swap(ctx context.Context, f *shelf.Folder, s snapshot, keep dataset.Snapshot, oldFS, newFS string,
	size dataset.Size) error {
	from, to := p.snapshotName(f.ID, s.FS, s.ID), p.root(f.ID)+"/"+newFS
	o, err := p.tool.object(ctx, from)
	switch {
	case errors.Is(err, errAbsent):
		return dataset.Errorf(dataset.ErrCorrupt, "%s is missing", from)
	case err != nil:
		return err
	case o.referenced > size:
		return dataset.Errorf(dataset.ErrUnsupported, "it contains %s, and the dataset now has %s: resize that first",
			o.referenced.Human(), size.Human())
	}
	// An earlier attempt may have made the filesystem. It never was the head, so nothing was written to it.
	if err := p.tool.retryBusy(ctx, "destroy", to); err != nil && !errors.Is(err, errAbsent) {
		return err
	}
	if err := p.tool.zfs(ctx, append(append([]string{"clone"}, headOptions(size)...), from, to)...); err != nil {
		return err
	}
	if err = p.record(ctx, f, keep, oldFS, true); err == nil {
		err = shelf.WriteJSON(f.Dir, currentName, current{FS: newFS}, true)
	}
	if err != nil {
		err = p.unswap(ctx, f, keep.ID, oldFS, newFS, err)
	}
	return err
}

// unswap undoes a swap that failed with err. First it removes the record of the snapshot: if the record stayed, the
// snapshot would appear in lists after the next change of the head. Then it removes the snapshot and the filesystem of
// the new head. It undoes nothing if that filesystem is the head already, because then only a flush failed.
func (p *Pool) unswap(
	ctx context.Context, f *shelf.Folder, keep uuid.UUID, oldFS, newFS string, err error,
) error {
	head, hErr := headName(f.Dir, f.ID)
	if hErr != nil || head == newFS {
		return err
	}
	rErr := f.Remove(recordOf(keep))
	if rErr == nil {
		rErr = shelf.SyncDir(f.Dir)
	}
	if rErr != nil && !errors.Is(rErr, fs.ErrNotExist) {
		return fmt.Errorf("%w (the record of snapshot %s stays until the next change: %v)", err, keep, rErr)
	}
	after := context.WithoutCancel(ctx)
	for _, name := range []string{p.snapshotName(f.ID, oldFS, keep), p.root(f.ID) + "/" + newFS} {
		_ = p.tool.zfs(after, "destroy", name) // if this fails, Reap destroys it
	}
	return err
}

// sweep durably removes the records that an interrupted restore left: the records of former heads whose filesystem is
// still the head. See shelf.Folder.Sweep. Reap destroys the ZFS snapshots themselves.
func sweep(f *shelf.Folder) error {
	if f.State == backends.EntryCopy {
		return nil
	}
	head, err := headName(f.Dir, f.ID)
	if err != nil {
		return err
	}
	records, err := recordsOf(f, func(s snapshot) bool { return s.FormerHead && s.FS == head })
	if err != nil || len(records) == 0 {
		return err
	}
	for _, id := range records {
		if err := f.Remove(recordOf(id)); err != nil {
			return err
		}
	}
	return shelf.SyncDir(f.Dir)
}

// recordsOf returns the recorded snapshots for which accept returns true. It skips records that cannot be parsed.
func recordsOf(f *shelf.Folder, accept func(snapshot) bool) (found []uuid.UUID, err error) {
	names, err := f.Names(".")
	if err != nil {
		return nil, err
	}
	for _, name := range names {
		id, ok := recordID(name)
		if !ok {
			continue
		}
		var s snapshot
		err := shelf.ReadJSON(f.Dir, name, &s)
		var read *fs.PathError
		switch {
		case errors.Is(err, fs.ErrNotExist):
		case errors.As(err, &read):
			return nil, err
		case err == nil && accept(s):
			found = append(found, id)
		}
	}
	return found, nil
}

// retakeSnapshot takes a snapshot that was never acknowledged. If the snapshot exists already, an interrupted attempt
// left it. It lacks later writes, so retakeSnapshot destroys it first.
func (p *Pool) retakeSnapshot(ctx context.Context, name string) error {
	err := p.tool.zfs(ctx, "snapshot", name)
	if !errors.Is(err, errTaken) {
		return err
	}
	if err := p.tool.zfs(ctx, "destroy", name); err != nil && !errors.Is(err, errAbsent) {
		return err
	}
	return p.tool.zfs(ctx, "snapshot", name)
}
