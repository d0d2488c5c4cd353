package record

import (
	"cmp"
	"fmt"
	"strings"

	"github.com/google/uuid"

	"github.com/droverhq/drover/dataset"
)

// snapshotMark begins the part after the @ of a spec that names the source of a clone.
const snapshotMark = "snapshot-"

// volumeWithProfile finds a live volume by NAME@PROFILE, as engines list it. If the volume is a clone, the reference
// may also be the spelling of its request, such as NAME@snapshot-PREFIX. It returns the error in the argument none if
// no volume has the name, and fails with dataset.ErrInvalid if the volume has another profile.
func volumeWithProfile(t *Tx, name, after string, none error) (dataset.Dataset, error) {
	d, ok, err := t.VolumeByName(name)
	switch {
	case err != nil:
		return d, err
	case !ok || after == "":
		return d, none
	case d.Profile.Name == after, strings.HasPrefix(after, snapshotMark) && d.RequestedAs == name+"@"+after:
		return d, nil
	}
	return d, dataset.Errorf(dataset.ErrInvalid, "volume %s has profile %s, not %s (use %s without @)", name,
		d.Profile.Name, dataset.Clip(after), name)
}

// snapshotAtSign finds a snapshot by VOLUME@SNAPSHOT, where SNAPSHOT is a name or UUID prefix. ok is false if ref has
// not that form, or if no live volume has that name.
func snapshotAtSign(t *Tx, ref string) (s dataset.Snapshot, ok bool, err error) {
	name, after, at := strings.Cut(ref, "@")
	if !at {
		return s, false, nil
	}
	d, ok, err := t.VolumeByName(name)
	if err != nil || !ok {
		return s, false, err
	}
	s, err = snapshotAfterAt(t, d, after)
	return s, true, err
}

// snapshotAfterAt finds the snapshot of a dataset that the part after the @ names: a name, a UUID prefix, or one of
// these after snapshotMark. It first looks for the whole text, because the name of a snapshot can begin with
// snapshotMark too. Then it looks for the text after snapshotMark: first as a UUID prefix, as in the spec of a clone,
// and then as a name.
func snapshotAfterAt(t *Tx, d dataset.Dataset, after string) (dataset.Snapshot, error) {
	s, err := t.SnapshotOf(d, after)
	rest, marked := strings.CutPrefix(after, snapshotMark)
	if !marked || dataset.KindOf(err) != dataset.ErrNotFound {
		return s, err
	}
	for _, find := range []func() (dataset.Snapshot, error){
		func() (dataset.Snapshot, error) { return snapshotByPrefix(t, rest, d.ID) },
		func() (dataset.Snapshot, error) { return t.SnapshotOf(d, rest) },
	} {
		if s, rerr := find(); dataset.KindOf(rerr) != dataset.ErrNotFound {
			return s, rerr
		}
	}
	return s, err
}

// sourceAtSign finds the source of a clone by VOLUME@SNAPSHOT or VOLUME@PROFILE. It fails with dataset.ErrAmbiguous if
// the part after the @ names both a snapshot and the profile of the volume.
func sourceAtSign(t *Tx, name, after string, none error) (dataset.Source, error) {
	d, ok, err := t.VolumeByName(name)
	if err == nil && !ok {
		err = none
	}
	if err != nil {
		return dataset.Source{}, err
	}
	s, err := snapshotAfterAt(t, d, after)
	isProfile := d.Profile.Name == after
	switch kind := dataset.KindOf(err); {
	case kind == nil && isProfile:
		return dataset.Source{}, dataset.Errorf(dataset.ErrAmbiguous,
			"%s@%s is both the volume with its profile and a snapshot (use %s for the volume, %s for the snapshot)",
			name, after, name, s.ID.String()[:8])
	case kind == nil:
		return dataset.Source{Dataset: d.ID, Snapshot: s.ID}, nil
	case kind == dataset.ErrNotFound && isProfile:
		return dataset.Source{Dataset: d.ID}, nil
	case kind == dataset.ErrNotFound:
		return dataset.Source{}, dataset.Errorf(dataset.ErrNotFound,
			"volume %s has no snapshot %q (drover snapshot ls %s lists its snapshots; its profile is %s)", name,
			dataset.Clip(after), name, d.Profile.Name)
	}
	return dataset.Source{}, err
}

// sourceNotFound returns the error for a source of a clone that does not exist. If volumes have a snapshot of that
// name, the error says how to name it. Otherwise sourceNotFound returns the error in the argument none.
func sourceNotFound(t *Tx, from string, names bool, none error) error {
	has, err := SnapshotsNamed(t, from)
	if err != nil || len(has) == 0 {
		return cmp.Or(err, none)
	}
	var forms []string
	for _, n := range has {
		if names {
			forms = append(forms, n.Volume+"@"+from)
		} else {
			forms = append(forms, n.AtSign())
		}
	}
	return dataset.Errorf(dataset.ErrNotFound, "no volume, snapshot or dataset %q; snapshots of this name: %s",
		dataset.Clip(from), strings.Join(forms, ", "))
}

// NamedSnapshot is a snapshot with the name of its volume.
type NamedSnapshot struct {
	Volume string
	ID     uuid.UUID
}

// AtSign returns the part of a spec that names the snapshot as the source of a clone, with the volume of the snapshot
// in parentheses.
func (n NamedSnapshot) AtSign() string {
	return fmt.Sprintf("@%s%s (of volume %s)", snapshotMark, n.ID.String()[:8], n.Volume)
}

// SnapshotsNamed returns the first few snapshots of live volumes that have the given snapshot name. It reads the names
// of all snapshots, so it is only used for errors.
func SnapshotsNamed(t *Tx, name string) (has []NamedSnapshot, err error) {
	if dataset.CheckName(name) != nil {
		return nil, nil
	}
	for e, err := range Entries(t, SnapshotNamesPrefix, pageSize) {
		if err != nil {
			return nil, err
		}
		of, is := strings.CutSuffix(strings.TrimPrefix(e.Key, SnapshotNamesPrefix), "/"+name)
		if !is {
			continue
		}
		id, err := ParseKey(SnapshotNamesPrefix+of, SnapshotNamesPrefix)
		if err != nil {
			return nil, err
		}
		var c Claim
		if err := Decode(e.Key, e.Value, &c); err != nil {
			return nil, err
		}
		var d dataset.Dataset
		if there, err := t.Get(DatasetKey(id), &d); err != nil {
			return nil, err
		} else if there && d.State == dataset.StateReady {
			has = append(has, NamedSnapshot{d.Volume, c.ID})
		}
		if len(has) == maxNamedSnapshots {
			break
		}
	}
	return has, nil
}

// maxNamedSnapshots is the largest number of snapshots that SnapshotsNamed returns.
const maxNamedSnapshots = 3
