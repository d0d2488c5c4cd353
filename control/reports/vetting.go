package reports

import (
	"slices"

	"github.com/droverhq/drover/control/record"
	"github.com/droverhq/drover/dataset"
)

// Profiles decides whether control may record a profile that comes from a node. Its methods are safe for concurrent
// use.
type Profiles struct {
	get func(name string) (dataset.Profile, error)
}

// NewProfiles returns Profiles. get returns a profile of profiles.yaml.
func NewProfiles(get func(name string) (dataset.Profile, error)) *Profiles { return &Profiles{get} }

// A fence command runs as root on the node that takes over, and a volume is mounted with the options of its profile
// on every node to which it moves. So a node could change what runs on other nodes. To prevent that, control records
// only commands and options that it knows.

// Check fails with dataset.ErrForbidden if the profile in a report has a fence command, a key program or mount options
// that control does not know. Control knows the settings of that profile in profiles.yaml, and those in the records of
// the operation, the dataset and its source. rec is the recorded operation; empty if there is none.
func (v *Profiles) Check(t *record.Tx, rec, op dataset.Operation) error {
	var reported []dataset.Profile
	if op.DatasetRecord != nil {
		reported = append(reported, op.DatasetRecord.Profile)
	}
	if op.Snapshot != nil {
		reported = append(reported, op.Snapshot.Profile)
	}
	reported = slices.DeleteFunc(reported, func(p dataset.Profile) bool {
		return v.isCommandKnown(p) && v.isMountKnown(p) && v.isKeyProgramKnown(p)
	})
	if len(reported) == 0 {
		return nil
	}
	known, err := knownProfiles(t, rec, op)
	if err != nil {
		return err
	}
	for _, p := range reported {
		if _, err := v.get(p.Name); err != nil && len(known) == 0 {
			known = []dataset.Profile{{}} // not in profiles.yaml: accept it only without such settings
		}
		what := "mount options in it that are not control's, and other nodes would use them to mount it"
		if !v.isKeyProgramKnown(p, known...) {
			what = "a key program in it that is not control's, which would run as root on another node"
		} else if !v.isCommandKnown(p, known...) {
			what = "a fence command in it that is not control's, which would run as root on another node"
		} else if v.isMountKnown(p, known...) {
			continue
		}
		return dataset.Errorf(dataset.ErrForbidden,
			"report of operation %s (%.40s): profile %s has %s (try again, if profiles.yaml was changed just now)",
			op.ID, op.Kind, dataset.Clip(p.Name), what)
	}
	return nil
}

// knownProfiles returns the recorded profiles that the outcome of an operation may have.
func knownProfiles(t *record.Tx, rec, op dataset.Operation) (known []dataset.Profile, err error) {
	if rec.DatasetRecord != nil {
		known = append(known, rec.DatasetRecord.Profile)
	}
	if rec.Snapshot != nil {
		known = append(known, rec.Snapshot.Profile)
	}
	from := []dataset.Source{{Dataset: op.DatasetID}}
	if op.Snapshot != nil { // a snapshot that is being removed has a profile that was recorded before
		from[0].Snapshot = op.Snapshot.ID
	}
	if op.Source != nil {
		from = append(from, *op.Source)
	}
	for _, of := range from {
		var snap dataset.Snapshot
		if there, err := t.Get(record.SnapshotKey(of.Dataset, of.Snapshot), &snap); err != nil {
			return nil, err
		} else if there {
			known = append(known, snap.Profile)
		}
		var d dataset.Dataset
		if there, err := t.Get(record.DatasetKey(of.Dataset), &d); err != nil {
			return nil, err
		} else if there {
			known = append(known, d.Profile)
		}
	}
	return known, nil
}

// isCommandKnown reports whether a profile has no fence command, or one that is known: the command of this profile in
// profiles.yaml, or that of a profile in others.
func (v *Profiles) isCommandKnown(p dataset.Profile, others ...dataset.Profile) bool {
	f := p.Failover.Fence
	if len(f.Exec) == 0 {
		return true
	}
	if own, err := v.get(p.Name); err == nil {
		others = append(others, own)
	}
	return slices.ContainsFunc(others, func(o dataset.Profile) bool {
		g := o.Failover.Fence
		return g.Kind == f.Kind && g.Timeout == f.Timeout && slices.Equal(g.Exec, f.Exec)
	})
}

// isMountKnown reports whether the mount options of a profile are known: they are those of this profile in
// profiles.yaml, or of a profile in others. An empty list of options must be known as well, because an unknown one
// could, for instance, remove nosuid.
func (v *Profiles) isMountKnown(p dataset.Profile, others ...dataset.Profile) bool {
	if own, err := v.get(p.Name); err == nil {
		others = append(others, own)
	}
	return slices.ContainsFunc(others, func(o dataset.Profile) bool {
		return slices.Equal(o.Filesystem.Mount, p.Filesystem.Mount)
	})
}

// WithKnownSettings returns a profile that was stored beside data, or in another record, with the fence command, the
// key program and the mount options that control knows. record is the recorded profile of the dataset; empty if there
// is none.
func (v *Profiles) WithKnownSettings(p, record dataset.Profile) dataset.Profile {
	var others []dataset.Profile
	if record.Name != "" {
		others = append(others, record)
	}
	return v.withKnownKeys(v.withKnownMount(v.WithKnownCommand(p, others...), others...), others...)
}

// isKeyProgramKnown reports whether a profile has no key program, or one that is known: the program of this profile in
// profiles.yaml, or that of a profile in others. A key file is only a name: a host without this file has no key.
func (v *Profiles) isKeyProgramKnown(p dataset.Profile, others ...dataset.Profile) bool {
	if len(p.Encryption.Exec) == 0 {
		return true
	}
	if own, err := v.get(p.Name); err == nil {
		others = append(others, own)
	}
	return slices.ContainsFunc(others, func(o dataset.Profile) bool { return o.Encryption.Equal(p.Encryption) })
}

// withKnownKeys returns a profile with a known key program; if the profile has no known program, it gets the one that
// profiles.yaml has for it now.
func (v *Profiles) withKnownKeys(p dataset.Profile, others ...dataset.Profile) dataset.Profile {
	if v.isKeyProgramKnown(p, others...) {
		return p
	}
	p = p.Clone()
	own, _ := v.get(p.Name)
	p.Encryption = own.Clone().Encryption
	return p
}

// WithKnownCommand returns a profile with a known fence command. If the command of the profile is not known, it is
// replaced by the one that profiles.yaml has for the profile. If profiles.yaml has none, the profile gets none, and
// no node takes over automatically.
func (v *Profiles) WithKnownCommand(p dataset.Profile, others ...dataset.Profile) dataset.Profile {
	f := p.Failover.Fence
	if f.Kind != dataset.FenceExec && len(f.Exec) == 0 || len(f.Exec) > 0 && v.isCommandKnown(p, others...) {
		return p
	}
	p = p.Clone()
	p.Failover.Fence = dataset.Fence{Kind: dataset.FenceExec}
	if own, err := v.get(p.Name); err == nil && own.Failover.Fence.Kind == dataset.FenceExec {
		p.Failover.Fence = own.Failover.Fence
	}
	return p
}

// withKnownMount returns a profile with known mount options. If its own options are known, it keeps them. Otherwise
// it gets the options in record. If record is empty, it keeps only those of its options that profiles.yaml has, or
// that only forbid something, such as nosuid. It gets no other option of profiles.yaml, because the filesystem of the
// data may not support it.
func (v *Profiles) withKnownMount(p dataset.Profile, record ...dataset.Profile) dataset.Profile {
	if v.isMountKnown(p, record...) {
		return p
	}
	p = p.Clone()
	if len(record) > 0 {
		p.Filesystem.Mount = slices.Clone(record[0].Filesystem.Mount)
		return p
	}
	own, _ := v.get(p.Name)
	known := append([]string{"nosuid", "nodev", "noexec"}, own.Filesystem.Mount...)
	p.Filesystem.Mount = slices.DeleteFunc(p.Filesystem.Mount,
		func(o string) bool { return !slices.Contains(known, o) })
	return p
}
