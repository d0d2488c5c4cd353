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

// create makes, commits and finishes op.DatasetRecord. If fill is not nil, create calls it to write the contents. Other
// requests cannot find the dataset before it is committed. The removal of the pool waits while create holds the
// dataset's lock.
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
	return out, o.finish(ctx, pool, name, asked, *out.Dataset)
}

// finish makes a committed dataset ready in its pool (backends.Pool.Commit). asked is the size in the record beside the
// data. If control has recorded another size, finish writes the record beside the data again.
func (o *Operations) finish(ctx context.Context, pool backends.Pool, name string, asked dataset.Size,
	d dataset.Dataset) error {
	if err := pool.Commit(context.WithoutCancel(ctx), d.ID); err != nil {
		return fmt.Errorf("volume %s: it is created and recorded, but not in its place yet: %w", d.Volume, err)
	}
	steps.At(name + ".committed")
	if d.Size != asked {
		o.WriteRecord(ctx, pool, d)
	}
	return nil
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

// Remove deletes a volume. If a container of the engine may need another spelling of the volume, or if the engine
// removes the volume by an alias, Remove only forgets the spelling. It succeeds if there is no such volume. It fails
// with ErrInUse while the volume is mounted, for every tool, and if Spellings.CheckRemovable refuses.
func (o *Operations) Remove(ctx context.Context, ref dataset.Reference) error {
	d, err := o.Find(ctx, ref)
	if errors.Is(err, dataset.ErrNotFound) && d.ID == uuid.Nil {
		return nil
	}
	if err != nil {
		return err
	}
	if err := o.Verifier.CheckUnmounted(ctx, d); err != nil {
		if errors.Is(err, dataset.ErrInUse) && d.Home == o.NodeID {
			return dataset.WithHolders(err, o.Holders.Examine(ctx, d))
		}
		return err
	}
	if err := o.Spellings.CheckRemovable(ctx, d, ref); err != nil {
		return err
	}
	if removed, err := o.Spellings.Remove(ctx, d, ref); err != nil || removed {
		return err
	}
	// The volume may have been renamed since the cache was updated. Then the name that the engine removes is an alias,
	// and the removal of an alias must not delete the data. So the request names the dataset by its UUID, and control
	// refuses it if the volume has another name now.
	if err := o.Perform(ctx, api.Request{Kind: dataset.OpDelete, Volume: d.ID.String(), Name: d.Volume}); err != nil {
		return err
	}
	return o.Spellings.MarkDeleted(ctx, d.ID)
}

// Perform has control plan a request for an existing volume. It executes a plan for this node. If the plan is for
// another node, the agent of that node executes it.
func (o *Operations) Perform(ctx context.Context, req api.Request) error {
	what := fmt.Sprintf("%s of volume %s", req.Kind, req.Volume)
	if req.Kind == dataset.OpDelete && req.Name != "" {
		what = fmt.Sprintf("%s of volume %s", req.Kind, req.Name)
	}
	req.ID = uuid.New()
	_, err := o.Jobs.Do(ctx, "op/"+req.ID.String(), what, func(ctx context.Context, jb *host.Job) error {
		jb.Step("planning")
		plan, err := o.Plan(ctx, req)
		if err != nil || plan.Unchanged != nil {
			return err
		}
		if plan.Operation.Node != o.NodeID {
			out, err := o.executeElsewhere(ctx, jb, req)
			if err != nil || out.Operation == nil {
				return err
			}
			return OutcomeError(*out.Operation)
		}
		_, err = o.Execute(ctx, jb, *plan.Operation)
		return err
	})
	return err
}
