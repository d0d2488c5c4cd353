package operation

import (
	"context"
	"errors"
	"fmt"

	"github.com/google/uuid"

	"github.com/droverhq/drover/agent/host"
	"github.com/droverhq/drover/control/api"
	"github.com/droverhq/drover/dataset"
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

// Perform has control plan a request for an existing volume. It executes a plan for this node, and has another node's
// agent execute a plan for that node.
func (o *Operations) Perform(ctx context.Context, req api.Request) error {
	what := fmt.Sprintf("%s of volume %s", req.Kind, req.Volume)
	if req.Kind == dataset.OpDelete && req.Name != "" {
		what = fmt.Sprintf("%s of volume %s", req.Kind, req.Name)
	}
	req.ID = uuid.New()
	_, err := o.Jobs.Do(ctx, "op/"+req.ID.String(), what, func(ctx context.Context, jb *host.Job) error {
		jb.Step("planning")
		plan, err := o.membership.Plan(ctx, req)
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
