package operation

import (
	"context"
	"errors"
	"fmt"

	"github.com/google/uuid"

	"github.com/droverhq/drover/agent/host"
	"github.com/droverhq/drover/agent/jobs"
	"github.com/droverhq/drover/agent/mounting"
	"github.com/droverhq/drover/agent/storage"
	"github.com/droverhq/drover/backends"
	"github.com/droverhq/drover/control/api"
	"github.com/droverhq/drover/dataset"
	"github.com/droverhq/drover/internal/linux/fsctl"
	"github.com/droverhq/drover/internal/steps"
	"github.com/droverhq/drover/internal/tree"
)

// ConverterDeps is what Converter needs of other components.
type ConverterDeps struct {
	*host.Host
	Datasets *Datasets
	Records  *RecordWriter
	Maker    *DatasetMaker
	Pools    interface {
		Get(id uuid.UUID) (backends.Pool, error)
	}
	Conversions  *Conversions
	EnsureUnused EnsureUnused
	Reserve      Reserve
	PoolChanged  func(id uuid.UUID, home bool)
}

// Converter copies volumes into new datasets with other profiles. It has no state: Conversions has the state.
type Converter struct {
	deps ConverterDeps
}

// NewConverter returns a Converter.
func NewConverter(deps ConverterDeps) *Converter { return &Converter{deps} }

// Convert copies the files of a dataset that is not in use into a new dataset. Control then gives the names of the
// volume to the new dataset, and puts the former one in the trash. Until control has recorded that, the volume is
// unchanged, and an attempt that was interrupted begins again with an empty dataset. Convert holds the locks of both
// datasets.
func (c *Converter) Convert(ctx context.Context, jb *jobs.Job, op *dataset.Operation) (out api.Committed, err error) {
	d, from, unlock, err := c.deps.Datasets.LockForOperation(ctx, *op, "conversion")
	defer unlock()
	if err == nil {
		err = checkConvertible(d, *op)
	}
	if err != nil {
		return out, err
	}
	defer c.deps.Conversions.begin(*op)()
	if err := c.deps.EnsureUnused(ctx, d, "convert"); err != nil {
		return out, err
	}
	end, err := c.deps.Reserve(ctx, d)
	if err != nil {
		return out, fmt.Errorf("conversion of volume %s: %w", d.Volume, err)
	}
	defer end()
	next := op.DatasetRecord
	unlockNext, err := c.deps.Locks.Lock(ctx, next.ID, "conversion of volume "+d.Volume)
	if err != nil {
		return out, err
	}
	defer unlockNext()
	to, err := c.deps.Pools.Get(next.Pool)
	if err != nil {
		return out, err
	}
	// An earlier attempt may have been interrupted. Its files are not used.
	if err := storage.Discard(ctx, to, next.ID); err != nil {
		return out, err
	}
	release, err := c.fill(ctx, jb, op, d, from, to)
	defer release()
	if err != nil {
		return out, err
	}
	jb.Step("recording")
	if err := c.deps.Conversions.note(ctx, *op); err != nil {
		return out, errors.Join(err, storage.Discard(ctx, to, next.ID))
	}
	out, err = c.commit(ctx, op)
	if err != nil {
		if !host.InDoubt(err) {
			err = errors.Join(err, storage.Discard(ctx, to, next.ID))
		}
		return out, err
	}
	steps.At("convert.recorded")
	return out, c.finish(context.WithoutCancel(ctx), out, *next, to)
}

// checkConvertible fails if a dataset was deleted or enlarged since its conversion was planned.
func checkConvertible(d dataset.Dataset, op dataset.Operation) error {
	if err := checkLive(d, "conversion"); err != nil {
		return err
	}
	if size := op.DatasetRecord.Size; size != 0 && d.Size > size {
		return dataset.Errorf(dataset.ErrConflict,
			"conversion of volume %s: its size was changed meanwhile (ask again)", d.Volume)
	}
	return nil
}

// fill makes the new dataset and copies the files of d into it. If it fails, nothing is left of the new dataset. Call
// release, which is never nil, once the new dataset is recorded or the conversion has failed.
func (c *Converter) fill(ctx context.Context, jb *jobs.Job, op *dataset.Operation, d dataset.Dataset,
	from, to backends.Pool) (release func(), err error) {
	making := *op
	making.DatasetID = op.DatasetRecord.ID // the record is shared: the maker sets its size and its data key
	release, err = c.deps.Maker.reserve(ctx, to, &making)
	if err != nil {
		return release, err
	}
	if _, err := c.deps.Maker.makeDataset(ctx, jb, to, &making, "convert"); err != nil {
		return release, errors.Join(err, storage.Discard(ctx, to, making.DatasetID))
	}
	steps.At("convert.made")
	if err := copyFiles(ctx, jb, from, d.ID, to, making.DatasetID); err != nil {
		err = fmt.Errorf("conversion of volume %s: %w", d.Volume,
			c.deps.Maker.deps.Space.AddHint(ctx, making.DatasetRecord.Pool, err))
		return release, errors.Join(err, storage.Discard(ctx, to, making.DatasetID))
	}
	steps.At("convert.copied")
	return release, nil
}

// copyFiles copies the files of a dataset into an empty one, compares the two, and flushes the copy.
func copyFiles(ctx context.Context, jb *jobs.Job, from backends.Pool, src uuid.UUID, to backends.Pool,
	dst uuid.UUID) (err error) {
	jb.Step("copying")
	source, err := mounting.OpenRoot(ctx, from, src, backends.AttachOptions{})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, source.Close()) }()
	target, err := mounting.OpenRoot(ctx, to, dst, backends.AttachOptions{})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, target.Close()) }()
	if err := tree.Copy(ctx, source, target, func(n int64) { jb.SetProgress(n, 0) }); err != nil {
		return err
	}
	jb.Step("comparing")
	diff, err := tree.Compare(ctx, source, target)
	if err != nil {
		return err
	}
	if len(diff) > 0 {
		return dataset.Errorf(dataset.ErrCorrupt, "the copy differs from the volume at %v (nothing was changed)",
			diff[0])
	}
	return fsctl.Sync(target)
}

// commit has control record the conversion, and finds out whether control has recorded it if the answer was lost. The
// caller has noted the conversion: while the outcome is in doubt, the former dataset is not mounted, also after a
// restart of the agent.
func (c *Converter) commit(ctx context.Context, op *dataset.Operation) (out api.Committed, err error) {
	ctx = context.WithoutCancel(ctx)
	out, err = c.deps.Datasets.Commit(ctx, op)
	if c.deps.Ctx.Err() != nil {
		return out, err // the next start of the agent settles it
	}
	recorded := err == nil
	if err != nil && host.InDoubt(err) {
		now, aerr := host.UntilAnswered(ctx, c.deps.Host, func() (dataset.Operation, error) {
			return c.deps.Control.Operation(ctx, op.ID.String(), 0)
		})
		if aerr != nil {
			return out, errors.Join(err, aerr) // the next start of the agent settles it
		}
		if recorded = now.State == dataset.OpDone; recorded {
			out, err = c.readFormer(ctx, op.DatasetID)
		}
	}
	if recorded {
		return out, err
	}
	return out, errors.Join(err, c.deps.Conversions.forget(ctx, op.DatasetID))
}

// readFormer reads the record of the former dataset, which control has put in the trash, and applies it to the cache.
func (c *Converter) readFormer(ctx context.Context, id uuid.UUID) (out api.Committed, err error) {
	s, err := host.UntilAnswered(ctx, c.deps.Host, func() (api.Sync, error) {
		return c.deps.Control.Sync(ctx, c.deps.NodeID, 0, 0)
	})
	if err != nil {
		return out, err
	}
	for _, d := range s.Datasets {
		if d.ID == id {
			c.deps.Cache.Apply(d.Dataset, d.Index)
			return api.Committed{Dataset: &d.Dataset, Index: d.Index}, nil
		}
	}
	return out, dataset.Errorf(dataset.ErrUnavailable,
		"dataset %s: control has converted it, and no longer has a record of it", id)
}

// finish makes the new dataset of a recorded conversion ready in its pool (backends.Pool.Commit), and moves to it what
// this node knows about the volume. After a crash, package cleanup and Conversions.Settle do this.
func (c *Converter) finish(ctx context.Context, out api.Committed, made dataset.Dataset, to backends.Pool) error {
	if err := to.Commit(ctx, made.ID); err != nil {
		return fmt.Errorf("volume %s: it is converted and recorded, but not in its place yet: %w", made.Volume, err)
	}
	steps.At("convert.committed")
	former := *out.Dataset
	next, err := c.deps.FetchDataset(ctx, made.ID)
	if err != nil {
		c.deps.LogOf(ctx, made).WithError(err).
			Warn("cannot read the record of the new dataset, which the next answer of control has")
		return nil
	}
	c.deps.Records.Write(ctx, to, next)
	c.deps.Records.WriteLater(api.IndexedDataset{Dataset: former, Index: out.Index})
	if err := mounting.RemoveMountPoint(c.deps.MountPath(former.ID)); err != nil {
		c.deps.LogOf(ctx, former).WithError(err).Warn("cannot remove the mount point")
	}
	c.deps.PoolChanged(next.Pool, false)
	c.deps.News.Changed(next.ID)
	if err := c.deps.Conversions.end(ctx, former.ID, next); err != nil {
		c.deps.LogOf(ctx, next).WithError(err).
			Warn("cannot record which names the engine uses for the converted volume")
	}
	return nil
}
