package control

import (
	"slices"

	"github.com/droverhq/drover/control/record"
	"github.com/droverhq/drover/dataset"
)

// A fence command runs as root on the node that takes over, and a volume is mounted with its
// profile's options wherever it goes: on other nodes than the one that tells of the profile.
// So none of these goes on record that control does not know.

// ownProfiles fails with ErrForbidden when a report has a fence command, or mount options,
// that neither profiles.yaml has for its profile, nor the record of the operation, the
// dataset, or what it is made of. rec is the operation on record, empty where it is not.
func (s *Service) ownProfiles(t *tx, rec, op dataset.Operation) error {
	var told []dataset.Profile
	if op.Dataset != nil {
		told = append(told, op.Dataset.Profile)
	}
	if op.Snapshot != nil {
		told = append(told, op.Snapshot.Profile)
	}
	told = slices.DeleteFunc(told, func(p dataset.Profile) bool {
		return s.knowsCommand(p) && s.knowsMount(p) && s.knowsKeys(p)
	})
	if len(told) == 0 {
		return nil
	}
	known, err := t.profilesOf(rec, op)
	if err != nil {
		return err
	}
	for _, p := range told {
		if _, err := s.Deps.Profiles().Get(p.Name); err != nil && len(known) == 0 {
			known = []dataset.Profile{{}} // of a profile that is gone: there is nothing for it to have
		}
		what := "mount options in it that are not control's, which other nodes would mount it with"
		if !s.knowsKeys(p, known...) {
			what = "a key program in it that is not control's, which would run as root on another node"
		} else if !s.knowsCommand(p, known...) {
			what = "a fence command in it that is not control's, which would run as root on another node"
		} else if s.knowsMount(p, known...) {
			continue
		}
		return dataset.Errorf(dataset.ErrForbidden,
			"report of operation %s (%.40s): profile %s has %s (ask again, if profiles.yaml was changed just now)",
			op.ID, op.Kind, dataset.Clip(p.Name), what)
	}
	return nil
}

// profilesOf are those on record that the outcome of an operation may have.
func (t *tx) profilesOf(rec, op dataset.Operation) (known []dataset.Profile, err error) {
	if rec.Dataset != nil {
		known = append(known, rec.Dataset.Profile)
	}
	if rec.Snapshot != nil {
		known = append(known, rec.Snapshot.Profile)
	}
	from := []dataset.Source{{Dataset: op.DatasetID}}
	if op.Snapshot != nil { // one that goes, and had its profile long before
		from[0].Snapshot = op.Snapshot.ID
	}
	if op.Source != nil {
		from = append(from, *op.Source)
	}
	for _, of := range from {
		var snap dataset.Snapshot
		if there, err := t.get(record.SnapshotKey(of.Dataset, of.Snapshot), &snap); err != nil {
			return nil, err
		} else if there {
			known = append(known, snap.Profile)
		}
		var d dataset.Dataset
		if there, err := t.get(record.DatasetKey(of.Dataset), &d); err != nil {
			return nil, err
		} else if there {
			known = append(known, d.Profile)
		}
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

// knowsMount reports whether profiles.yaml has the mount options of a profile for it, or one
// of others has. No options are a choice as well: without nosuid, say.
func (s *Service) knowsMount(p dataset.Profile, others ...dataset.Profile) bool {
	if own, err := s.Deps.Profiles().Get(p.Name); err == nil {
		others = append(others, own)
	}
	return slices.ContainsFunc(others, func(o dataset.Profile) bool {
		return slices.Equal(o.Filesystem.Mount, p.Filesystem.Mount)
	})
}

// withOwn returns a profile as it lay beside data, or on another record, with a fence command
// and mount options that are control's. record is the dataset's on record; empty: there is
// none.
func (s *Service) withOwn(p, record dataset.Profile) dataset.Profile {
	var others []dataset.Profile
	if record.Name != "" {
		others = append(others, record)
	}
	return s.withOwnKeys(s.withOwnMount(s.withOwnCommand(p, others...), others...), others...)
}

// knowsKeys reports whether a profile has no key program, or that which profiles.yaml or one of
// others has. A key file is no more than a name: who has none there has no key.
func (s *Service) knowsKeys(p dataset.Profile, others ...dataset.Profile) bool {
	if len(p.Encryption.Exec) == 0 {
		return true
	}
	if own, err := s.Deps.Profiles().Get(p.Name); err == nil {
		others = append(others, own)
	}
	return slices.ContainsFunc(others, func(o dataset.Profile) bool { return o.Encryption.Equal(p.Encryption) })
}

// withOwnKeys returns a profile with a key program that is known, or where none is with that
// which profiles.yaml has for it now.
func (s *Service) withOwnKeys(p dataset.Profile, others ...dataset.Profile) dataset.Profile {
	if s.knowsKeys(p, others...) {
		return p
	}
	p = p.Clone()
	own, _ := s.Deps.Profiles().Get(p.Name)
	p.Encryption = own.Clone().Encryption
	return p
}

// withOwnCommand returns a profile with the fence command that profiles.yaml has for it,
// unless it has one that is known; with none where that has none: then nothing takes over by
// itself.
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

// withOwnMount returns a profile with mount options that are known: its own, those of the
// record, or, where there is none, what it has of those in profiles.yaml and what only
// forbids. Nothing is added that the pool of the data may not be able to keep.
func (s *Service) withOwnMount(p dataset.Profile, record ...dataset.Profile) dataset.Profile {
	if s.knowsMount(p, record...) {
		return p
	}
	p = p.Clone()
	if len(record) > 0 {
		p.Filesystem.Mount = slices.Clone(record[0].Filesystem.Mount)
		return p
	}
	own, _ := s.Deps.Profiles().Get(p.Name)
	known := append([]string{"nosuid", "nodev", "noexec"}, own.Filesystem.Mount...)
	p.Filesystem.Mount = slices.DeleteFunc(p.Filesystem.Mount,
		func(o string) bool { return !slices.Contains(known, o) })
	return p
}
