package move

import (
	"context"
	"errors"
	"slices"

	"github.com/google/uuid"

	"github.com/droverhq/drover/agent/host"
	"github.com/droverhq/drover/control/api"
	"github.com/droverhq/drover/dataset"
	"github.com/droverhq/drover/internal/steps"
)

// BoundLease bounds the lease of a dataset, mounted or not, and then has control record the profile with failover auto.
// It fails with ErrUnsupported if the guard cannot fence the dataset in time. It is an operation.Handler.
//
// While control does not confirm the lease, and until control's record of the copies has arrived here, BoundLease tries
// again, for twice Timing.InUseWait. It holds the dataset's lock only during an attempt, so that the dataset can be
// mounted and unmounted in between. Each attempt reads the record of the dataset again, because it may have changed.
func (m *Moves) BoundLease(ctx context.Context, jb *host.Job, op *dataset.Operation) (out api.Committed, err error) {
	next, until := op.DatasetRecord.Profile, m.Clock.Steady()+2*m.Timing.InUseWait
	for {
		var again bool
		if out, again, err = m.attemptBound(ctx, jb, op, next); !again || m.Clock.Steady() >= until {
			return out, err
		}
		select {
		case <-ctx.Done():
			return out, ctx.Err()
		case <-m.Clock.After(m.Timing.Retry):
		}
	}
}

// attemptBound is one attempt of BoundLease. again is true if a later attempt can succeed.
func (m *Moves) attemptBound(ctx context.Context, jb *host.Job, op *dataset.Operation, next dataset.Profile) (
	out api.Committed, again bool, err error) {
	d, pool, unlock, err := m.LockForOperation(ctx, *op, "change of the failover")
	defer unlock()
	if err != nil {
		return out, false, err
	}
	steps.At("bound.begin")
	if err := m.checkOtherUpdates(ctx, d, op.ID); err != nil {
		return out, false, err
	}
	jb.Step("registering it with the guard")
	if err := m.markBounded(ctx, d, next, op.ID); err != nil {
		return out, errors.Is(err, dataset.ErrUnavailable) && ctx.Err() == nil, err
	}
	steps.At("bound.made")
	if out, again, err = m.commitBound(context.WithoutCancel(ctx), op, next); err != nil {
		return out, again, err // the mark stays until it is certain that control has recorded nothing: see lease.Marks
	}
	steps.At("bound.recorded")
	m.WriteRecord(ctx, pool, *out.Dataset)
	m.settleBound(context.WithoutCancel(ctx), d.ID)
	return out, false, nil
}

// checkOtherUpdates fails with ErrConflict if another operation has given a dataset failover auto, or may still do so.
// The mark of that operation must stay, and the guard must keep the dataset. The caller holds the dataset's lock.
func (m *Moves) checkOtherUpdates(ctx context.Context, d dataset.Dataset, op uuid.UUID) error {
	if marked, err := m.Leases.Deadlines.Marks.MarkedByOther(ctx, d.ID, op); err != nil {
		return err
	} else if marked {
		return dataset.Errorf(dataset.ErrConflict,
			"volume %s: another change of its failover has not ended yet (try again)", d.Volume)
	}
	if !d.Profile.Failover.Auto {
		return nil
	}
	now, err := m.FetchDataset(ctx, d.ID) // the record here may be outdated
	if err == nil && now.Profile.Failover.Auto && now.Request != op {
		err = dataset.Errorf(dataset.ErrConflict, "volume %s: its profile was changed meanwhile (try again)", d.Volume)
	}
	return err
}

// markBounded marks a dataset, and registers it with the guard if it is mounted. After an error, the dataset is neither
// marked nor registered, with two exceptions. If its lease was bounded before, for example by an earlier attempt, it
// stays so. If ctx has ended, the mark stays, because the next start resumes the operation.
func (m *Moves) markBounded(ctx context.Context, d dataset.Dataset, next dataset.Profile, op uuid.UUID) error {
	bounded := m.Leases.Deadlines.IsBounded(d)
	if err := m.Leases.Deadlines.Marks.Set(ctx, d.ID, op); err != nil {
		return err
	}
	steps.At("bound.marked")
	m.Leases.Deadlines.Wake()
	d.Profile = next
	err := m.adoptByGuard(ctx, d)
	if err == nil || bounded || ctx.Err() != nil { // a canceled operation is resumed at the next start
		return err
	}
	m.Leases.Registrar.Release(d.ID)
	if derr := m.Leases.Deadlines.Marks.Drop(ctx, d.ID); derr != nil {
		m.LogOf(ctx, d).WithError(derr).Warn("cannot record that the failover of a volume stays manual, retrying")
	}
	return err
}

// adoptByGuard registers a dataset with the guard. If the dataset is not mounted, adoptByGuard only finds out whether
// the guard could fence it. It fails with ErrUnavailable if control does not confirm the lease, or if the guard does
// not answer.
func (m *Moves) adoptByGuard(ctx context.Context, d dataset.Dataset) error {
	mounted, err := m.Leases.Registrar.Adopt(ctx, d)
	if err != nil || mounted {
		return err
	}
	// A process may use it nevertheless, for instance in another mount namespace.
	if err = m.Verifier.EnsureUnused(ctx, d, "change the failover of"); err == nil {
		m.Leases.Registrar.Release(d.ID)
	}
	return err
}

// commitBound has control record the profile. Control refuses the profile unless the record of this node lists all
// copies: while control is silent, this node must ask the nodes with copies for promises. A node that gets a copy later
// is enrolled first (lease.Deadlines.Enrol). again is true if control has refused because its record of the copies has
// not arrived here yet.
func (m *Moves) commitBound(ctx context.Context, op *dataset.Operation, next dataset.Profile) (out api.Committed,
	again bool, err error) {
	d, _ := m.Cache.Dataset(op.DatasetID)
	if err := m.Cache.SaveChanged(ctx, m.DB); err != nil { // a restarted agent must know the copies
		return out, false, err
	}
	report := d
	report.Profile = next
	op.DatasetRecord = &report
	out, err = m.Commit(ctx, op)
	return out, errors.Is(err, dataset.ErrConflict) && m.hasOtherCopies(ctx, d), err
}

// hasOtherCopies reports whether control has recorded a copy that is not in a record.
func (m *Moves) hasOtherCopies(ctx context.Context, d dataset.Dataset) bool {
	v, err := m.Control.Volume(ctx, d.ID.String())
	return err == nil && slices.ContainsFunc(v.Followers(), func(node uuid.UUID) bool {
		return !slices.Contains(d.Followers(), node)
	})
}

// settleBound removes the mark of a dataset whose record has failover auto now. If it fails, lease.Marks.Settle tries
// again.
func (m *Moves) settleBound(ctx context.Context, id uuid.UUID) {
	err := m.Cache.SaveChanged(ctx, m.DB)
	if d, known := m.Cache.Dataset(id); err == nil && known && d.Profile.Failover.Auto {
		err = m.Leases.Deadlines.Marks.Drop(ctx, id)
	}
	if err != nil {
		log := m.Log.WithError(err).WithField("dataset", id)
		log.Warn("cannot record the end of a change of the failover, retrying")
	}
	m.Leases.Deadlines.Wake()
}
