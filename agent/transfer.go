package agent

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"time"

	"github.com/google/uuid"

	"github.com/droverhq/drover/agent/host"
	"github.com/droverhq/drover/agent/jobs"
	"github.com/droverhq/drover/agent/mounting"
	"github.com/droverhq/drover/agent/storage"
	"github.com/droverhq/drover/agent/throttle"
	"github.com/droverhq/drover/backends"
	"github.com/droverhq/drover/control/api"
	"github.com/droverhq/drover/dataset"
	"github.com/droverhq/drover/internal/linux/fsctl"
	"github.com/droverhq/drover/internal/linux/mount"
	"github.com/droverhq/drover/internal/safefile"
	"github.com/droverhq/drover/internal/steps"
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

// Import makes a volume from a tar archive.
func (a *Agent) Import(ctx context.Context, req api.Request, r io.Reader) (dataset.Dataset, error) {
	req.Kind = dataset.OpImport
	if req.ID == uuid.Nil {
		req.ID = uuid.New()
	} else if op, known := a.known(ctx, req.ID); known {
		return dataset.Dataset{}, usedID(op.ID)
	}
	plan, err := a.plan(ctx, req)
	if err != nil {
		return dataset.Dataset{}, err
	}
	if plan.Operation == nil {
		return *plan.Done, nil
	}
	op := *plan.Operation
	var out api.Committed // read only if the job has ended without an error
	joined, err := a.Jobs.Do(ctx, "op/"+op.ID.String(), "import of volume "+op.Volume,
		func(jctx context.Context, jb *jobs.Job) error {
			// The archive comes with the request, so the job ends with it.
			jctx, cancel := context.WithCancel(jctx)
			defer cancel()
			defer context.AfterFunc(ctx, cancel)()
			return a.operations.Run(jctx, jb, op, func(jctx context.Context, op *dataset.Operation) error {
				c, err := a.importInto(jctx, jb, op, func(root *os.File) error { return unpackSent(jctx, r, root) })
				out = c
				return err
			})
		})
	if joined { // the other request has another archive
		err = usedID(op.ID)
	}
	if err != nil {
		return dataset.Dataset{}, err
	}
	if out.Lost {
		return dataset.Dataset{}, dataset.Errorf(dataset.ErrExists, "volume %q was made by someone else meanwhile",
			op.Volume)
	}
	return *out.Dataset, nil
}

func usedID(id uuid.UUID) error {
	return dataset.Errorf(dataset.ErrExists, "operation %s is another one (choose another ID)", id)
}

// doImport makes a volume from a folder of this host.
func (a *Agent) doImport(ctx context.Context, jb *jobs.Job, op *dataset.Operation) (api.Committed, error) {
	if op.Path == "" {
		return api.Committed{}, dataset.Errorf(dataset.ErrCancelled,
			"import of volume %s was cut short by a restart: import it again", op.Volume)
	}
	// From here on the folder is examined and read through this descriptor. Another user who renames a
	// folder above it has no effect.
	src, err := safefile.OpenFolder(op.Path)
	if err != nil {
		return api.Committed{}, dataset.Errorf(dataset.ErrInvalid, "import of volume %s: %w", op.Volume, err)
	}
	defer src.Close()
	if err := errors.Join(a.importable(ctx, src), nothingBelow(src)); err != nil {
		return api.Committed{}, fmt.Errorf("import of volume %s: %w", op.Volume, err)
	}
	return a.importInto(ctx, jb, op, func(root *os.File) error {
		if err := tree.Copy(ctx, src, root, func(n int64) { jb.Moved(n, 0) }); err != nil {
			return err
		}
		if op.Live {
			return nil
		}
		jb.Step("comparing")
		diff, err := tree.Compare(ctx, src, root)
		if err == nil && len(diff) > 0 {
			err = dataset.Errorf(dataset.ErrConflict,
				"%s changed while it was copied, at %v (stop what uses it, or say --live)", op.Path, diff[0])
		}
		return err
	})
}

// nothingBelow fails with ErrInvalid if something is mounted in a folder. A copy would lack what is mounted, and
// the user who then removes the source would lose it.
func nothingBelow(folder *os.File) error {
	path, err := os.Readlink(fmt.Sprintf("/proc/self/fd/%d", folder.Fd()))
	if err != nil {
		return fmt.Errorf("where is %s: %w", folder.Name(), err)
	}
	table, err := mount.Table()
	if err != nil {
		return err
	}
	for _, m := range table.Under(path) {
		if m.Mountpoint != path {
			return dataset.Errorf(dataset.ErrInvalid,
				"%s is a mount of its own, which a copy of %s would lack (unmount it, or import both, each "+
					"by itself)", m.Mountpoint, path)
		}
	}
	return nil
}

func (a *Agent) importInto(ctx context.Context, jb *jobs.Job, op *dataset.Operation,
	fill func(root *os.File) error) (api.Committed, error) {
	pool, err := a.pools.Get(op.Dataset.Pool)
	if err != nil {
		return api.Committed{}, err
	}
	// What an earlier attempt has copied before it was interrupted is not used.
	if err := storage.Discard(ctx, pool, op.DatasetID); err != nil {
		return api.Committed{}, err
	}
	return a.doMake(ctx, jb, op, "import", func(pool backends.Pool) (err error) {
		jb.Step("copying")
		root, err := mounting.OpenRoot(ctx, pool, op.DatasetID, backends.AttachOptions{})
		if err != nil {
			return err
		}
		defer func() { err = errors.Join(err, root.Close()) }()
		if err := fill(root); err != nil {
			return fmt.Errorf("import of volume %s: %w", op.Volume, err)
		}
		steps.At("import.copied")
		return fsctl.Sync(root)
	})
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
