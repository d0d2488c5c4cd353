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
	// MoveSpellings records that the spellings of one dataset belong to another one.
	MoveSpellings func(ctx context.Context, from uuid.UUID, to dataset.Dataset) error
}

// Converter copies volumes into new datasets with other profiles. It has no state: Conversions has the state.
type Converter struct {
	deps ConverterDeps
}

// NewConverter returns a Converter.
func NewConverter(deps ConverterDeps) *Converter { return &Converter{deps} }

// Convert copies the files of a dataset that is not in use into a new dataset. Control then gives the names of the
// volume to the new dataset, and puts the former one in the trash. Until control has recorded that, the volume is
// unchanged. An attempt that was interrupted before it was reported begins again with an empty dataset. If an earlier
// attempt was reported, the next one reports the same dataset: control may record either report. Convert holds the
// locks of both datasets.
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
	defer func() { c.deps.Conversions.endReservation(d.ID, end) }()
	unlockNext, err := c.deps.Locks.Lock(ctx, op.DatasetRecord.ID, "conversion of volume "+d.Volume)
	if err != nil {
		return out, err
	}
	defer unlockNext()
	to, err := c.deps.Pools.Get(op.DatasetRecord.Pool)
	if err != nil {
		return out, err
	}
	r, again := c.deps.Conversions.noted(d.ID, op.ID)
	if again = again && r.Made != nil; again {
		made := *r.Made
		op.DatasetRecord = &made
		err = c.compareAgain(ctx, jb, d, from, *r.Made, to)
	} else {
		var release func()
		release, err = c.fillAndNote(ctx, jb, op, d, from, to)
		defer release()
	}
	if err != nil {
		return out, err
	}
	if out, err = c.commit(ctx, op, to, again); err != nil {
		return out, err
	}
	steps.At("convert.recorded")
	next := *op.DatasetRecord
	if err := to.Commit(ctx, next.ID); err != nil {
		return out, fmt.Errorf("volume %s: it is converted and recorded, but not in its place yet: %w", next.Volume,
			err)
	}
	if err := c.finish(context.WithoutCancel(ctx), d.ID, op.ID, out, next, to); err != nil {
		c.deps.LogOf(ctx, next).WithError(err).Warn("cannot end the conversion on this node; retrying")
		c.settleSoon(d.ID, op.ID)
	}
	return out, nil
}

// fillAndNote makes the new dataset with the files of d, and notes that the conversion is about to be reported. Call
// release, which is never nil, once the new dataset is recorded or the conversion has failed.
func (c *Converter) fillAndNote(ctx context.Context, jb *jobs.Job, op *dataset.Operation, d dataset.Dataset,
	from, to backends.Pool) (release func(), err error) {
	// An earlier attempt may have been interrupted. Its files are not used.
	if err := storage.Discard(ctx, c.deps.Host, to, op.DatasetRecord.ID); err != nil {
		return func() {}, fmt.Errorf("conversion of volume %s: %w", d.Volume, err)
	}
	release, err = c.fill(ctx, jb, op, d, from, to)
	if err != nil {
		return release, err
	}
	jb.Step("recording")
	if err := c.deps.Conversions.note(ctx, *op); err != nil {
		return release, errors.Join(err, storage.Discard(ctx, c.deps.Host, to, op.DatasetRecord.ID))
	}
	steps.At("convert.noted")
	return release, nil
}

// compareAgain fails with dataset.ErrConflict unless the dataset made, which an earlier attempt has reported, still has
// the files of d.
func (c *Converter) compareAgain(ctx context.Context, jb *jobs.Job, d dataset.Dataset, from backends.Pool,
	made dataset.Dataset, to backends.Pool) error {
	what := "conversion of volume " + d.Volume
	if _, err := to.Stat(ctx, made.ID); errors.Is(err, dataset.ErrNotFound) {
		return dataset.Errorf(dataset.ErrConflict, "%s: its copy was removed meanwhile (try again)", what)
	}
	if err := copyOrCompare(ctx, jb, from, d.ID, to, made.ID, false); err != nil {
		return fmt.Errorf("%s: %w", what, err)
	}
	jb.Step("recording")
	return nil
}

// checkConvertible fails if a dataset was deleted or enlarged since its conversion was planned.
func checkConvertible(d dataset.Dataset, op dataset.Operation) error {
	if err := checkLive(d, "conversion"); err != nil {
		return err
	}
	if size := op.DatasetRecord.Size; size != 0 && d.Size > size {
		return dataset.Errorf(dataset.ErrConflict,
			"conversion of volume %s: its size was changed meanwhile (try again)", d.Volume)
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
		return release, errors.Join(err, storage.Discard(ctx, c.deps.Host, to, making.DatasetID))
	}
	steps.At("convert.made")
	if err := copyFiles(ctx, jb, from, d.ID, to, making.DatasetID); err != nil {
		err = fmt.Errorf("conversion of volume %s: %w", d.Volume,
			c.deps.Maker.deps.Space.AddHint(ctx, making.DatasetRecord.Pool, err))
		return release, errors.Join(err, storage.Discard(ctx, c.deps.Host, to, making.DatasetID))
	}
	steps.At("convert.copied")
	return release, nil
}

// copyFiles copies the files of a dataset into an empty one, compares the two, and flushes the copy.
func copyFiles(ctx context.Context, jb *jobs.Job, from backends.Pool, src uuid.UUID, to backends.Pool,
	dst uuid.UUID) error {
	return copyOrCompare(ctx, jb, from, src, to, dst, true)
}

// copyOrCompare is copyFiles. If copies is false, the files were copied already: it only compares and flushes.
func copyOrCompare(ctx context.Context, jb *jobs.Job, from backends.Pool, src uuid.UUID, to backends.Pool,
	dst uuid.UUID, copies bool) (err error) {
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
	if copies {
		jb.Step("copying")
		if err := tree.Copy(ctx, source, target, func(n int64) { jb.SetProgress(n, 0) }); err != nil {
			return err
		}
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

// commit has control record the conversion. If the outcome is in doubt, the state of the operation decides. The caller
// has noted the conversion. Unless the outcome is known, the note stays: Settle reads the state again later. again says
// that an earlier attempt was reported too, and that its report may still arrive.
func (c *Converter) commit(ctx context.Context, op *dataset.Operation, to backends.Pool, again bool) (
	out api.Committed, err error) {
	ctx = context.WithoutCancel(ctx)
	out, err = c.deps.Datasets.Commit(ctx, op)
	if err == nil || c.deps.Ctx.Err() != nil {
		return out, err // the next start of the agent settles it
	}
	refused := !again && !host.InDoubt(err)
	if !refused {
		now, aerr := host.UntilAnswered(ctx, c.deps.Host, func() (dataset.Operation, error) {
			return c.deps.Control.Operation(ctx, op.ID.String(), 0)
		})
		if aerr == nil && now.State == dataset.OpDone {
			return host.UntilAnswered(ctx, c.deps.Host, func() (api.Committed, error) {
				return c.readRecords(ctx, op.DatasetID, op.DatasetRecord.ID)
			})
		}
		if aerr != nil || !now.State.Final() {
			return out, errors.Join(err, aerr)
		}
	}
	return out, errors.Join(err, c.drop(ctx, op.DatasetID, op.ID, op.DatasetRecord.ID, to))
}

// drop ends a conversion that control has not recorded and will not record. The locks of both datasets are held.
func (c *Converter) drop(ctx context.Context, former, op, made uuid.UUID, to backends.Pool) error {
	if err := c.deps.Conversions.forget(ctx, former, op); err != nil {
		return err
	}
	return storage.Discard(ctx, c.deps.Host, to, made)
}
