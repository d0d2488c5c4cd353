package agent

import (
	"context"
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/google/uuid"

	"github.com/droverhq/drover/agent/host"
	"github.com/droverhq/drover/agent/mounting"
	"github.com/droverhq/drover/agent/storage"
	"github.com/droverhq/drover/agent/throttle"
	"github.com/droverhq/drover/backends"
	"github.com/droverhq/drover/control/api"
	"github.com/droverhq/drover/dataset"
	"github.com/droverhq/drover/internal/linux/fsctl"
	"github.com/droverhq/drover/internal/tree"
)

// Export writes a volume as it is at one moment, or a snapshot of it, to w as a tar archive. If the pool cannot
// clone without copying, the volume is read as it is, which is one moment only while nobody writes to it. Sockets
// are left out, because tar has none.
func (a *Agent) Export(ctx context.Context, ref, snapshot string, w io.Writer) (out api.LeftOut, err error) {
	v, err := a.Control.Volume(ctx, ref)
	if err != nil {
		return out, err
	}
	d := v.Dataset
	src := dataset.Source{Dataset: d.ID}
	if snapshot != "" {
		s, err := a.Control.Snapshot(ctx, ref, snapshot)
		if err != nil {
			return out, err
		}
		src.Snapshot = s.ID
	}
	pool, err := a.pools.Online(ctx, d.Pool)
	if err != nil {
		return out, fmt.Errorf("export of volume %s: %w", d.Volume, err)
	}
	if src.Snapshot == uuid.Nil && !pool.Info().Capabilities.InstantSnapshot {
		var end func()
		if end, err = a.reservations.Reserve(ctx, d); err == nil {
			err = exportRoot(ctx, pool, d.ID, w, &out)
			end()
		}
	} else {
		err = a.exportClone(ctx, pool, d, src, w, &out)
	}
	if err != nil {
		return out, fmt.Errorf("export of volume %s: %w", d.Volume, err)
	}
	if out.Count > 0 {
		a.LogOf(d).WithField("count", out.Count).
			Warnf("sockets were left out of the archive, as tar has none: %q, for one", out.First[0])
	}
	return out, nil
}

// exportClone reads a temporary clone that only the export knows.
func (a *Agent) exportClone(ctx context.Context, pool backends.Pool, d dataset.Dataset, src dataset.Source,
	w io.Writer, out *api.LeftOut) (err error) {
	scratch := d
	scratch.ID, scratch.Size = uuid.New(), 0
	end := a.keys.StandIn(scratch.ID, d.ID)
	defer func() {
		err = errors.Join(err, storage.Discard(ctx, pool, scratch.ID))
		end()
	}()
	unlock, err := a.Locks.Lock(ctx, d.ID, "export of volume "+d.Volume)
	if err != nil {
		return err
	}
	err = a.exportedClone(ctx, pool, d, scratch, src)
	unlock()
	if err != nil {
		return err
	}
	return exportRoot(ctx, pool, scratch.ID, w, out)
}

// exportedClone makes the clone. A snapshot may lack what was not flushed, as after a power cut, but an export
// has everything that was written before.
func (a *Agent) exportedClone(ctx context.Context, pool backends.Pool, d, scratch dataset.Dataset,
	src dataset.Source) error {
	if src.Snapshot == uuid.Nil {
		if err := a.writeOut(d); err != nil {
			return err
		}
		in, thaw, err := a.quiescer.Freeze(ctx, pool, d)
		if err != nil {
			return err
		}
		_, err = pool.Clone(in, scratch, src, nil)
		return errors.Join(err, thaw())
	}
	_, err := pool.Clone(ctx, scratch, src, nil)
	return err
}

// writeOut flushes what the kernel has in memory of a mounted dataset.
func (a *Agent) writeOut(d dataset.Dataset) error {
	path := a.MountPath(d.ID)
	if mounted, err := host.IsMountPoint(path); err != nil || !mounted {
		return err
	}
	root, err := mounting.OpenDir(path)
	if err != nil {
		return err
	}
	up, err := a.limits.Suspend(d, throttle.LiftSnapshot)
	if err != nil {
		return errors.Join(err, root.Close())
	}
	defer up.Resume()
	return errors.Join(fsctl.Sync(root), root.Close())
}

func exportRoot(ctx context.Context, pool backends.Pool, id uuid.UUID, w io.Writer, out *api.LeftOut) (err error) {
	root, err := mounting.OpenRoot(ctx, pool, id, backends.AttachOptions{})
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
func (a *Agent) Diff(ctx context.Context, older, newer string) (out api.Diff, err error) {
	ctx, cancel := context.WithTimeout(ctx, diffTime)
	defer cancel()
	from, err := a.Control.Snapshot(ctx, "", older)
	if err != nil {
		return out, err
	}
	to := dataset.Source{Dataset: from.Dataset}
	out.Older, out.Newer = from.ID.String(), "now"
	if newer != "" {
		s, err := a.Control.Snapshot(ctx, "", newer)
		if err != nil {
			return out, err
		}
		if s.Dataset != from.Dataset {
			return out, dataset.Errorf(dataset.ErrInvalid, "snapshots %s and %s are of different datasets", older,
				newer)
		}
		to.Snapshot, out.Newer = s.ID, s.ID.String()
	}
	d, ok := a.Cache.Dataset(from.Dataset)
	if !ok {
		return out, dataset.Errorf(dataset.ErrNotFound, "dataset %s is not on this node", from.Dataset)
	}
	pool, err := a.pools.Online(ctx, d.Pool)
	if err != nil {
		return out, err
	}
	sender, ok := pool.(backends.Sender)
	if !ok {
		return out, dataset.Errorf(dataset.ErrUnsupported,
			"volume %s: its pool cannot tell what changed between snapshots", d.Volume)
	}
	unlock, err := a.Locks.Lock(ctx, d.ID, "comparison of volume "+d.Volume)
	if err != nil {
		return out, err
	}
	defer unlock()
	c, err := sender.Changed(ctx, dataset.Source{Dataset: d.ID, Snapshot: from.ID}, to)
	out.Bytes, out.Zeroed, out.Ranges = c.Bytes, c.Zeroed, c.Ranges
	return out, err
}
