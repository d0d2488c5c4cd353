package control

import (
	"slices"

	"github.com/google/uuid"

	"github.com/droverhq/drover/control/api"
	"github.com/droverhq/drover/control/membership"
	"github.com/droverhq/drover/control/record"
	"github.com/droverhq/drover/dataset"
)

// A volume with failover auto may be open at its home only with a lease that is bounded in time, because another node
// may take over. So a change of the failover has an order:
//
//   - To auto: the home first bounds its lease, and registers a mount with its guard. Then it has control record the
//     profile (commitUpdate). Until then no node takes over.
//   - To manual: control records the profile at once (settleUpdate). From then on no automatic failover is planned or
//     committed. The home then releases its lease from the bound.

// Further options of an update in which the home takes part.
const (
	optionFailover = "failover" // "auto"
	optionReplaces = "replaces" // the profile that the decision was based on, as NAME@REVISION
)

// needsHome reports whether the home takes part in an operation of kind update: the volume gets failover auto.
func needsHome(op dataset.Operation) bool {
	return op.Kind == dataset.OpUpdate && op.Options[optionFailover] != ""
}

// updateByHome turns an update of the profile of d into an operation for the home.
func updateByHome(op *dataset.Operation, d dataset.Dataset) {
	op.Kind = dataset.OpUpdate
	op.Options[optionFailover] = formatFailover(op.DatasetRecord.Profile.Failover)
	op.Options[optionReplaces] = formatRevision(d.Profile)
}

func formatRevision(p dataset.Profile) string { return p.Name + "@" + p.Revision }

// checkFailoverChange fails unless the failover of d can become that of next.
func (s *Service) checkFailoverChange(t *record.Tx, d, next dataset.Dataset) error {
	if err := s.Relocator.CheckFailover(next); err != nil {
		return err
	}
	if d.Move != uuid.Nil {
		return dataset.Errorf(dataset.ErrConflict,
			"volume %s: its failover cannot change while it is being moved (operation %s; try again when that has "+
				"ended)", d.Volume, d.Move)
	}
	if !next.Profile.Failover.Auto {
		return nil
	}
	_, alive, err := membership.LivingSession(t, d.Home)
	if err != nil || alive {
		return err
	}
	home, err := t.NodeName(d.Home)
	if err == nil {
		err = dataset.Errorf(dataset.ErrOffline,
			"volume %s: its home, node %s, is unreachable, and must confirm failover auto (drover node ls)", d.Volume,
			home)
	}
	return err
}

// checkSizeStays fails if a change of the failover would also change the size: one operation of the home cannot do
// both.
func checkSizeStays(d, next dataset.Dataset) error {
	if next.Size == d.Size {
		return nil
	}
	return dataset.Errorf(dataset.ErrUnsupported,
		"volume %s: its failover and its size cannot change at once (drover volume resize %s %s, then try again)",
		d.Volume, d.Volume, next.Size.Readable())
}

// commitUpdate records the profile of an operation in which the home took part. The report must contain the copies that
// the home knows. The home asks the nodes of these copies for promises while control is unreachable. commitUpdate fails
// with dataset.ErrConflict if the home does not know all copies, or if the volume is moved or was changed since the
// plan. Idempotent.
func (s *Service) commitUpdate(t *record.Tx, op dataset.Operation, out *api.Committed) error {
	var plan dataset.Operation
	there, err := t.Get(record.OperationKey(op.ID), &plan)
	if err != nil {
		return err
	}
	if !there || !needsHome(plan) || plan.DatasetID != op.DatasetID || plan.DatasetRecord == nil {
		return dataset.Errorf(dataset.ErrInvalid, "report of operation %s: control has planned no such update", op.ID)
	}
	d, err := record.CurrentDataset(t, op)
	if err != nil {
		return err
	}
	out.Dataset = &d
	if d.Request == op.ID {
		return nil
	}
	if err := s.checkStillPlanned(t, d, plan, op); err != nil {
		return err
	}
	before := d
	next := plan.DatasetRecord.Profile.Clone()
	next.Encryption, next.Size = d.Profile.Clone().Encryption, d.Profile.Size // they may have changed since the plan
	d.ScheduleSince = s.scheduleSince(d, next)
	d.Profile, d.Request = next, op.ID
	t.Event(api.EventVolumeUpdate, d, describeUpdate(before, d))
	if err := record.ChangeVerifications(t, before, d, s.Clock.Now()); err != nil {
		return err
	}
	if err := t.PutDataset(d); err != nil {
		return err
	}
	_, err = s.CopyKeeper.Decide(t, d)
	return err
}

// checkStillPlanned fails if the record of a dataset has changed since the plan of an update so that the update must
// not be recorded.
func (s *Service) checkStillPlanned(t *record.Tx, d dataset.Dataset, plan, op dataset.Operation) error {
	unknown := func(node uuid.UUID) bool { return !slices.Contains(op.DatasetRecord.Followers(), node) }
	switch {
	case d.State != dataset.StateReady:
		return dataset.Errorf(dataset.ErrConflict, "volume %s was destroyed meanwhile", d.Volume)
	case d.Move != uuid.Nil:
		return dataset.Errorf(dataset.ErrConflict,
			"volume %s: its failover cannot change while it is being moved (operation %s; try again when that has "+
				"ended)", d.Volume, d.Move)
	case formatRevision(d.Profile) != plan.Options[optionReplaces] || d.Size != plan.DatasetRecord.Size:
		return dataset.Errorf(dataset.ErrConflict,
			"volume %s: its profile or its size was changed meanwhile (try again)", d.Volume)
	case slices.ContainsFunc(d.Followers(), unknown):
		return dataset.Errorf(dataset.ErrConflict,
			"volume %s: its home does not know all of its copies yet (try again)", d.Volume)
	case d.Profile.Access == dataset.AccessMany:
		return s.Relocator.Views.CheckNoSharedMounts(t, d, "give profile "+plan.DatasetRecord.Profile.Name+" to")
	}
	return nil
}
