package operation

import (
	"context"
	"errors"
	"fmt"
	"io"
	"sync"
	"time"

	"github.com/google/uuid"

	"github.com/droverhq/drover/agent/host"
	"github.com/droverhq/drover/agent/mounting"
	"github.com/droverhq/drover/agent/throttle"
	"github.com/droverhq/drover/backends"
	"github.com/droverhq/drover/control/api"
	"github.com/droverhq/drover/dataset"
	"github.com/droverhq/drover/internal/linux/fsctl"
	"github.com/droverhq/drover/internal/tree"
)

// Export writes a volume, or a snapshot of it, to w as a tar archive. The archive has the content of one moment.
// There is an exception: if the pool cannot clone without copying, Export reads the volume itself. Then the archive
// has the content of one moment only if no process writes to the volume meanwhile. Sockets are left out, because tar
// cannot represent them.
func (o *Operations) Export(ctx context.Context, ref, snapshot string, w io.Writer) (out api.OmittedFiles, err error) {
	v, err := o.Control.Volume(ctx, ref)
	if err != nil {
		return out, err
	}
	d := v.Dataset
	src := dataset.Source{Dataset: d.ID}
	if snapshot != "" {
		s, err := o.Control.Snapshot(ctx, ref, snapshot)
		if err != nil {
			return out, err
		}
		src.Snapshot = s.ID
	}
	pool, err := o.Pools.Online(ctx, d.Pool)
	if err != nil {
		return out, fmt.Errorf("export of volume %s: %w", d.Volume, err)
	}
	if src.Snapshot == uuid.Nil && !pool.Info().Capabilities.InstantSnapshot {
		var end func()
		if end, err = o.Reservations.Reserve(ctx, d); err == nil {
			err = exportRoot(ctx, pool, d.ID, w, &out)
			end()
		}
	} else {
		err = o.exportClone(ctx, pool, d, src, w, &out)
	}
	if err != nil {
		return out, fmt.Errorf("export of volume %s: %w", d.Volume, err)
	}
	if out.Count > 0 {
		o.LogOf(ctx, d).WithField("count", out.Count).
			Warnf("sockets were left out of the archive, because tar does not support them: %q, for "+
				"example", out.First[0])
	}
	return out, nil
}

// exportClone reads a temporary clone that only the export knows. It ends before the clone fills the pool, also while w
// takes nothing: the reader of the pipe then fails when w continues.
func (o *Operations) exportClone(ctx context.Context, pool backends.Pool, d dataset.Dataset, src dataset.Source,
	w io.Writer, out *api.OmittedFiles) error {
	scratch := d
	scratch.ID, scratch.Size = uuid.New(), 0
	end := o.Keys.BorrowKey(scratch.ID, d.ID)
	defer end()
	from, to := io.Pipe()
	var reading sync.WaitGroup
	reading.Go(func() {
		_ = to.CloseWithError(o.KeepReserve(ctx, pool, src, func(ctx context.Context) (err error) {
			defer context.AfterFunc(ctx, func() { _ = to.CloseWithError(context.Cause(ctx)) })()
			defer func() { err = errors.Join(err, host.Discard(ctx, o.Host, pool, scratch.ID)) }()
			unlock, err := o.LockSource(ctx, pool, src, "export of volume "+d.Volume)
			if err != nil {
				return err
			}
			_, _, err = o.Clone(ctx, pool, d, scratch, src)
			unlock()
			if err != nil {
				return err
			}
			return exportRoot(ctx, pool, scratch.ID, to, out)
		}))
	})
	_, err := io.Copy(w, from)
	_ = from.CloseWithError(err)
	reading.Wait()
	return err
}

// LockSource locks the dataset of src for a clone. A pool can take hours to copy a snapshot. Then LockSource locks only
// the snapshot, against its removal, and the volume can be used meanwhile.
func (o *Operations) LockSource(ctx context.Context, pool backends.Pool, src dataset.Source,
	what string) (unlock func(), err error) {
	if src.Snapshot != uuid.Nil && !pool.Info().Capabilities.InstantSnapshot {
		return o.Snapshots.Lock(ctx, src.Snapshot, what)
	}
	return o.Locks.Lock(ctx, src.Dataset, what)
}

// Clone makes a clone that only its reader knows, of a dataset or of its snapshot. The caller has called LockSource. A
// clone lacks data that was not flushed, as after a power cut, so Clone flushes a mounted dataset first. The clone then
// contains everything that was written before taken. exact reports whether the clone is exact: see dataset.Snapshot.
// For a snapshot, taken and exact are zero, since its record has them.
func (o *Operations) Clone(ctx context.Context, pool backends.Pool, d, scratch dataset.Dataset,
	src dataset.Source) (taken time.Time, exact bool, err error) {
	if src.Snapshot != uuid.Nil {
		_, err = pool.Clone(ctx, scratch, src, nil)
		return taken, false, err
	}
	if err := o.writeOut(d); err != nil {
		return taken, false, err
	}
	in, end, err := o.Quiescer.Prepare(ctx, pool, d)
	if err != nil {
		return taken, false, err
	}
	taken = o.Clock.Now()
	_, err = pool.Clone(in, scratch, src, nil)
	return taken, end(), err
}

// writeOut flushes the written data of a mounted dataset from the kernel's memory.
func (o *Operations) writeOut(d dataset.Dataset) error {
	path := o.MountPath(d.ID)
	if mounted, err := host.IsMountPoint(path); err != nil || !mounted {
		return err
	}
	root, err := mounting.OpenDir(path)
	if err != nil {
		return err
	}
	up, err := o.Throttle.Suspend(d, throttle.SuspendForSnapshot)
	if err != nil {
		return errors.Join(err, root.Close())
	}
	defer up.Resume()
	if err = fsctl.Sync(root); err != nil {
		o.LostWrites.Failed(o.Ctx, d, err)
	}
	return errors.Join(err, root.Close())
}

// exportRoot writes the files of a dataset that is not mounted for use to w as a tar archive.
func exportRoot(ctx context.Context, pool backends.Pool, id uuid.UUID, w io.Writer, out *api.OmittedFiles) (err error) {
	root, err := mounting.OpenRoot(ctx, pool, id)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, root.Close()) }()
	return tree.WriteTar(ctx, root, w, tree.WithSkipped(out.Add))
}

// diffTime bounds a comparison, because it holds the dataset's lock.
const diffTime = time.Minute

// Diff compares a snapshot with a later one of the same dataset or, if newer is empty, with the present content
// of the dataset.
func (o *Operations) Diff(ctx context.Context, older, newer string) (out api.Diff, err error) {
	ctx, cancel := context.WithTimeout(ctx, diffTime)
	defer cancel()
	from, err := o.Control.Snapshot(ctx, "", older)
	if err != nil {
		return out, err
	}
	to := dataset.Source{Dataset: from.Dataset}
	out.Older, out.Newer = from.ID.String(), "now"
	if newer != "" {
		s, err := o.Control.Snapshot(ctx, "", newer)
		if err != nil {
			return out, err
		}
		if s.Dataset != from.Dataset {
			return out, dataset.Errorf(dataset.ErrInvalid, "snapshots %s and %s are of different datasets", older,
				newer)
		}
		to.Snapshot, out.Newer = s.ID, s.ID.String()
	}
	d, ok := o.Cache.Dataset(from.Dataset)
	if !ok {
		return out, dataset.Errorf(dataset.ErrNotFound, "dataset %s is not on this node", from.Dataset)
	}
	pool, err := o.Pools.Online(ctx, d.Pool)
	if err != nil {
		return out, err
	}
	sender, ok := pool.(backends.Sender)
	if !ok {
		return out, dataset.Errorf(dataset.ErrUnsupported,
			"volume %s: its pool cannot compare snapshots", d.Volume)
	}
	unlock, err := o.Locks.Lock(ctx, d.ID, "comparison of volume "+d.Volume)
	if err != nil {
		return out, err
	}
	defer unlock()
	c, err := sender.Changed(ctx, dataset.Source{Dataset: d.ID, Snapshot: from.ID}, to)
	out.Bytes, out.Zeroed, out.Ranges = c.Bytes, c.Zeroed, c.Ranges
	return out, err
}
