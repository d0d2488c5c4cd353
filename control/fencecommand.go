package control

import (
	"slices"

	"github.com/google/uuid"

	"github.com/droverhq/drover/dataset"
)

// A fence command runs as root on the node that takes over, which is not the one that tells
// of the profile: so none goes on record that control does not know.

// ownCommand fails with ErrForbidden when a report has a fence command that neither
// profiles.yaml has for its profile, nor the record of the operation, the dataset, or what
// it is made of. rec is the operation on record, empty where it is not.
func (s *Service) ownCommand(t *tx, rec, op dataset.Operation) error {
	var told []dataset.Profile
	if op.Dataset != nil {
		told = append(told, op.Dataset.Profile)
	}
	if op.Snapshot != nil {
		told = append(told, op.Snapshot.Profile)
	}
	told = slices.DeleteFunc(told, func(p dataset.Profile) bool { return s.knowsCommand(p) })
	if len(told) == 0 {
		return nil
	}
	known, err := t.profilesOf(rec, op)
	if err != nil {
		return err
	}
	for _, p := range told {
		if !s.knowsCommand(p, known...) {
			return dataset.Errorf(dataset.ErrForbidden, "report of operation %s (%.40s): profile %s has a fence command in it that is not control's, which would run as root on another node (ask again, if profiles.yaml was changed just now)", op.ID, op.Kind, dataset.Clip(p.Name))
		}
	}
	return nil
}

// profilesOf are those on record that the outcome of an operation may have.
func (t *tx) profilesOf(rec, op dataset.Operation) (known []dataset.Profile, err error) {
	if rec.Dataset != nil {
		known = append(known, rec.Dataset.Profile)
	}
	from := []uuid.UUID{op.DatasetID}
	if op.Source != nil {
		from = append(from, op.Source.Dataset)
		var snap dataset.Snapshot
		if _, err := t.get(snapshotKey(op.Source.Dataset, op.Source.Snapshot), &snap); err != nil {
			return nil, err
		}
		known = append(known, snap.Profile)
	}
	for _, id := range from {
		var d dataset.Dataset
		if _, err := t.get(datasetKey(id), &d); err != nil {
			return nil, err
		}
		known = append(known, d.Profile)
	}
	return known, nil
}

// knowsCommand reports whether a profile has no fence command, or that which profiles.yaml
// or one of others has.
func (s *Service) knowsCommand(p dataset.Profile, others ...dataset.Profile) bool {
	f := p.Failover.Fence
	if len(f.Exec) == 0 {
		return true
	}
	if own, err := s.Deps.Profiles().Get(p.Name); err == nil {
		others = append(others, own)
	}
	return slices.ContainsFunc(others, func(o dataset.Profile) bool {
		g := o.Failover.Fence
		return g.Kind == f.Kind && g.Timeout == f.Timeout && slices.Equal(g.Exec, f.Exec)
	})
}

// withOwnCommand returns a profile as it lay beside data, or on another record, with the
// fence command that profiles.yaml has for it, unless it has one that is known; with none
// where that has none: then nothing takes over by itself.
func (s *Service) withOwnCommand(p dataset.Profile, others ...dataset.Profile) dataset.Profile {
	f := p.Failover.Fence
	if f.Kind != dataset.FenceExec && len(f.Exec) == 0 || len(f.Exec) > 0 && s.knowsCommand(p, others...) {
		return p
	}
	p = p.Clone()
	p.Failover.Fence = dataset.Fence{Kind: dataset.FenceExec}
	if own, err := s.Deps.Profiles().Get(p.Name); err == nil && own.Failover.Fence.Kind == dataset.FenceExec {
		p.Failover.Fence = own.Failover.Fence
	}
	return p
}
