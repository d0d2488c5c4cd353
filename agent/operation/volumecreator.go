package operation

import (
	"context"
	"errors"
	"fmt"

	"github.com/google/uuid"

	"github.com/droverhq/drover/agent/host"
	"github.com/droverhq/drover/backends"
	"github.com/droverhq/drover/control/api"
	"github.com/droverhq/drover/dataset"
	"github.com/droverhq/drover/internal/steps"
)

// Create makes sure that a volume exists as requested, and records the spelling of the request. See
// ensureVolume.
func (o *Operations) Create(ctx context.Context, ref dataset.Reference, opts map[string]string) error {
	req := api.Request{Kind: dataset.OpCreate, Volume: ref.Spelling, Ref: ref, Options: opts, Engine: true}
	if ref.Err != nil {
		if _, planErr := o.Control.Plan(ctx, o.NodeID, req); errors.Is(planErr, dataset.ErrInvalid) {
			return planErr // the error names the profiles that exist
		}
		return ref.Err
	}
	d, err := o.ensureVolume(ctx, req)
	if err != nil {
		return err
	}
	return o.Spellings.Record(ctx, d, ref)
}

// ensureVolume makes sure that a volume exists as requested. Control plans the request. executeCreate, on this node or
// on another one, executes the planned operation: it makes the dataset as incoming, commits it to control, and makes it
// ready in its pool.
//
// Any number of identical requests at the same time make one dataset, and all of them succeed: there is one job for
// each name. A request that has joined the job of another request is planned again: its plan finds the volume, or is
// refused.
func (o *Operations) ensureVolume(ctx context.Context, req api.Request) (dataset.Dataset, error) {
	what := fmt.Sprintf("%s of volume %s", req.Kind, req.Ref.Name)
	for {
		var made dataset.Dataset // read only if the job has ended without an error
		joined, err := o.Jobs.Do(ctx, "name/"+req.Ref.Name, what, func(ctx context.Context, jb *host.Job) error {
			d, err := o.createOnce(ctx, jb, req)
			made = d
			return err
		})
		switch {
		case errors.Is(err, dataset.ErrPending):
			return dataset.Dataset{}, err
		case joined:
			plan, err := o.Plan(ctx, req)
			if err != nil {
				return dataset.Dataset{}, err
			}
			if plan.Unchanged != nil {
				return *plan.Unchanged, nil
			}
		case errors.Is(err, ErrLost):
		case err != nil:
			return dataset.Dataset{}, err
		default:
			return made, nil
		}
	}
}

// createOnce has control plan a request, and executes the plan. It fails with ErrLost if another request made the
// volume first.
func (o *Operations) createOnce(ctx context.Context, jb *host.Job, req api.Request) (d dataset.Dataset, err error) {
	jb.Step("planning")
	req.ID = uuid.New()
	plan, err := o.Plan(ctx, req)
	if err != nil {
		return d, err
	}
	if plan.Unchanged != nil {
		return *plan.Unchanged, nil
	}
	if plan.Operation.Node != o.NodeID {
		return o.makeElsewhere(ctx, jb, req)
	}
	out, err := o.Execute(ctx, jb, *plan.Operation)
	if err != nil {
		return d, err
	}
	if out.Duplicate {
		return d, ErrLost
	}
	return *out.Dataset, nil
}

// Plan asks control to decide on a request. Control accepts the report of the outcome only from agents that have
// registered. An agent that started while control was unreachable registers soon or is refused, so Plan waits for ten
// times Timing.Retry at most.
func (o *Operations) Plan(ctx context.Context, req api.Request) (api.Plan, error) {
	p, err := o.Control.Plan(ctx, o.NodeID, req)
	if err != nil || p.Unchanged != nil {
		return p, err
	}
	select {
	case <-o.Membership.Joined():
		return p, nil
	case <-ctx.Done():
		err = ctx.Err()
	case <-o.Clock.After(10 * o.Timing.Retry):
		err = errors.New("its log has the reason")
	}
	return p, dataset.Errorf(dataset.ErrUnavailable,
		"control has not registered this node since drover started: %w (try again)", err)
}

// executeCreate executes a planned create or clone.
func (o *Operations) executeCreate(ctx context.Context, jb *host.Job, op *dataset.Operation) (api.Committed, error) {
	name := "create"
	if op.Source != nil {
		name = "clone"
	}
	return o.create(ctx, jb, op, name, nil)
}

// create makes op.DatasetRecord, commits it to control, and makes it ready in its pool (backends.Pool.Commit). If fill
// is not nil, create calls it to write the contents. Other requests cannot find the dataset before it is committed. The
// removal of the pool waits while create holds the dataset's lock.
func (o *Operations) create(ctx context.Context, jb *host.Job, op *dataset.Operation, name string,
	fill func(backends.Pool) error) (out api.Committed, err error) {
	pool, asked, end, err := o.makeDataset(ctx, jb, op, name)
	defer end()
	if err != nil {
		return out, err
	}
	if fill != nil {
		if err := fill(pool); err != nil {
			return out, errors.Join(err, host.Discard(ctx, o.Host, pool, op.DatasetID))
		}
	}
	jb.Step("recording")
	out, err = o.Commit(ctx, op)
	if host.InDoubt(err) {
		return out, err // the next sync shows whether it is recorded
	}
	if err != nil || out.Duplicate {
		return out, errors.Join(err, host.Discard(ctx, o.Host, pool, op.DatasetID))
	}
	steps.At(name + ".recorded")
	d := *out.Dataset
	if err := pool.Commit(context.WithoutCancel(ctx), d.ID); err != nil {
		return out, fmt.Errorf("volume %s: it is created and recorded, but not in its place yet: %w", d.Volume, err)
	}
	steps.At(name + ".committed")
	if d.Size != asked { // the record beside the data has the size that was requested of the backend
		o.WriteRecord(ctx, pool, d)
	}
	return out, nil
}

// makeTemporary makes the dataset of an operation, calls fill to write and read its contents, and removes it, also if
// fill fails. Control never records the dataset, so no other request can find it.
func (o *Operations) makeTemporary(ctx context.Context, jb *host.Job, op *dataset.Operation, name string,
	fill func(backends.Pool) error) (err error) {
	pool, _, end, err := o.makeDataset(ctx, jb, op, name)
	defer end()
	if err != nil {
		return err
	}
	if err = fill(pool); err == nil {
		jb.Step("removing the temporary volume")
	}
	err = errors.Join(err, host.Discard(ctx, o.Host, pool, op.DatasetID))
	if err == nil {
		steps.At(name + ".removed")
	}
	return err
}

// reserve sets the default size of a new dataset, and checks that its pool allows that size. Call release once the
// dataset is recorded, or the operation has failed.
func (o *Operations) reserve(ctx context.Context, pool backends.Pool, op *dataset.Operation) (release func(),
	err error) {
	d, st := op.DatasetRecord, pool.Status(ctx)
	if op.Source == nil {
		ApplyDefaults(d, pool, st)
		err = checkFits(st, max(d.Size, d.Profile.Size))
	}
	release = func() {}
	if err == nil && op.Kind != dataset.OpVerify { // takeRoom reserves the space of a verification
		release, err = o.Pools.Reserve(d.Pool, st, d.ID, d.Size)
	}
	if err != nil {
		return release, fmt.Errorf("volume %s: %w", op.Volume, err)
	}
	return release, nil
}

// makeDataset locks op.DatasetRecord, and makes it in its pool as an incoming dataset, if there is space for it. asked
// is the size that was requested of the backend, which may have rounded it. The caller must call end, even if err is
// not nil, once the dataset is recorded or removed.
func (o *Operations) makeDataset(ctx context.Context, jb *host.Job, op *dataset.Operation, name string) (
	pool backends.Pool, asked dataset.Size, end func(), err error) {
	unlock, err := o.Locks.Lock(ctx, op.DatasetID, name+" of volume "+op.Volume)
	if err != nil {
		return nil, 0, func() {}, err
	}
	if pool, err = o.Pools.Get(op.DatasetRecord.Pool); err != nil {
		return nil, 0, unlock, err
	}
	release, err := o.reserve(ctx, pool, op)
	end = func() { release(); unlock() }
	if err != nil {
		return nil, 0, end, err
	}
	if err := o.Pools.CheckRootSpace(ctx); err != nil {
		return nil, 0, end, fmt.Errorf("volume %s: %w", op.Volume, err)
	}
	steps.At(name + ".begin")
	asked = op.DatasetRecord.Size
	withKey, err := o.Keys.Seal(ctx, pool, op)
	if err != nil {
		return nil, 0, end, fmt.Errorf("volume %s: %w", op.Volume, err)
	}
	if err := o.MakeInPool(withKey, jb, pool, op); err != nil {
		return nil, 0, end, fmt.Errorf("volume %s: %w", op.Volume, o.Pools.AddHint(ctx, op.DatasetRecord.Pool, err))
	}
	steps.At(name + ".made")
	return pool, asked, end, nil
}

// MakeInPool makes the dataset of an operation in a pool, and does not record it.
func (o *Operations) MakeInPool(ctx context.Context, jb *host.Job, pool backends.Pool, op *dataset.Operation) error {
	if op.Source == nil {
		jb.Step("making")
		size, err := pool.Create(ctx, *op.DatasetRecord)
		op.DatasetRecord.Size = size
		return err
	}
	planned := op.DatasetRecord.Size
	later, err := o.makeClone(ctx, jb, pool, op)
	if err != nil {
		return err
	}
	if later == nil {
		if err := setCloneSize(op, planned); err != nil {
			return errors.Join(err, host.Discard(ctx, o.Host, pool, op.DatasetID))
		}
		return nil
	}
	jb.Step("growing")
	err = later.Resize(ctx, op.DatasetID, op.DatasetRecord.Size, nil)
	if err == nil { // the second call writes the record with the actual size; the dataset exists already
		op.DatasetRecord.Size, err = pool.Clone(ctx, *op.DatasetRecord, *op.Source, nil)
	}
	if err != nil {
		return errors.Join(err, host.Discard(ctx, o.Host, pool, op.DatasetID))
	}
	return nil
}

// ApplyDefaults sets the size and the filesystem of a new dataset to the defaults of its pool if its profile leaves
// them open. st is the present status of the pool.
func ApplyDefaults(d *dataset.Dataset, pool backends.Pool, st dataset.PoolStatus) {
	if d.Size == 0 {
		d.Size = backends.DefaultSize(pool.Info(), st)
	}
	if f, ok := pool.(backends.Formatter); ok && d.Profile.Filesystem.Type == "" {
		d.Profile.Filesystem.Type, d.Profile.Filesystem.Chosen = f.Filesystem(d.Size), true
	}
}

// checkFits fails if a volume is larger than its whole pool, whose present status is st. The sizes of all volumes
// together may exceed the pool: see pool.Pools.Reserve.
func checkFits(st dataset.PoolStatus, size dataset.Size) error {
	if st.Online && st.Size > 0 && size > st.Size {
		return dataset.Errorf(dataset.ErrUnsupported,
			"its pool has a size of %s, less than %s (request less, or another pool: drover pool ls)",
			st.Size.Human(), size)
	}
	return nil
}

// setCloneSize checks the size of a new clone, and raises the size in its profile to the actual size. A new clone has
// the size of its source, and the source may have been resized since the clone was planned. If the request asked for a
// size, the clone must not be larger than that size.
func setCloneSize(op *dataset.Operation, planned dataset.Size) error {
	d := op.DatasetRecord
	if planned == 0 || d.Size == planned {
		return nil
	}
	if asked := op.Options["size"]; asked != "" && d.Size > planned {
		return dataset.Errorf(dataset.ErrInvalid,
			"size %s is smaller than the size %s of its source, which was resized meanwhile (omit the size)", asked,
			d.Size.Readable())
	}
	d.Profile.Size = max(d.Profile.Size, d.Size)
	return nil
}

// makeClone makes a clone while nothing is written to the source, and sets its actual size in op.DatasetRecord. If the
// clone must still grow to its size, makeClone returns the pool as later instead, and the caller calls later.Resize:
// the source is thawed by then.
func (o *Operations) makeClone(ctx context.Context, jb *host.Job, pool backends.Pool,
	op *dataset.Operation) (later backends.Resizer, err error) {
	unlock, err := o.LockSource(ctx, pool, *op.Source, "clone into "+op.Volume)
	if err != nil {
		return nil, err
	}
	defer unlock()
	made, in, end := *op.DatasetRecord, ctx, func() bool { return false }
	if d, ok := o.Cache.Dataset(op.Source.Dataset); ok && op.Source.Snapshot == uuid.Nil {
		if err := o.Leases.MayChange(d, "clone"); err != nil {
			return nil, err
		}
		if made.Size > d.Size {
			if err := checkFits(pool.Status(ctx), made.Size); err != nil {
				return nil, err
			}
		}
		release, err := o.Reservations.Reserve(ctx, d)
		if err != nil {
			return nil, err
		}
		defer release()
		// To grow a clone, the backend mounts it. Work on the source should not wait for that mount, so the clone is
		// grown after the source is unlocked.
		if r, can := pool.(backends.Resizer); can && made.Size > d.Size {
			later, made.Size = r, 0
		}
		if in, end, err = o.Quiescer.Prepare(ctx, pool, d); err != nil {
			return nil, err
		}
	}
	jb.Step("cloning")
	size, err := pool.Clone(in, made, *op.Source, jb.SetProgress)
	end()
	// An earlier attempt that was interrupted may have made the clone. The source may have been smaller then, and may
	// be larger than the requested size now.
	// The source may have been given a size since the request.
	bounded := size > 0 || pool.Info().Capabilities.EnforcesSize
	if r, can := pool.(backends.Resizer); can && bounded && size < made.Size {
		later = r
	}
	if later != nil && size > op.DatasetRecord.Size { // the source was resized since the clone was planned
		later = nil
	}
	if later == nil {
		op.DatasetRecord.Size = size
	}
	return later, err
}
