package record

import (
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/google/uuid"

	"github.com/droverhq/drover/dataset"
)

// match is a dataset or snapshot whose UUID begins with a prefix.
type match struct {
	dataset  dataset.Dataset // the dataset, or the one of the snapshot
	snapshot uuid.UUID       // uuid.Nil for the dataset itself
}

// String names the match in errors.
func (m match) String() string {
	if m.snapshot == uuid.Nil {
		return fmt.Sprintf("dataset %s (%s)", m.dataset.ID, m.dataset.Volume)
	}
	return fmt.Sprintf("snapshot %s (%s)", m.snapshot, m.dataset.Volume)
}

const (
	pageSize      = 1000 // entries that one read of a long list returns
	matchesAtOnce = 64   // UUIDs that findMatches examines at once
)

// MatchesShown is the largest number of objects that a search by prefix returns and that an error lists.
const MatchesShown = 10

// findMatches returns up to MatchesShown objects whose UUID begins with prefix and that want accepts. It reads the
// objects with the prefix in batches until it has found enough, and may have to read all of them. It skips an object
// that was removed after its key was read.
func findMatches(t *Tx, prefix string, want func(match) bool) (found []match, err error) {
	prefix = UUIDPrefix + strings.ToLower(prefix)
	for e, err := range Entries(t, prefix, matchesAtOnce) {
		if err != nil {
			return nil, err
		}
		m, there, err := readMatch(t, e.Key, e.Value)
		if err != nil {
			return nil, err
		}
		if there && want(m) {
			found = append(found, m)
		}
		if len(found) == MatchesShown {
			break
		}
	}
	return found, nil
}

func readMatch(t *Tx, key string, value []byte) (m match, there bool, err error) {
	id, err := ParseKey(key, UUIDPrefix)
	if err != nil {
		return m, false, err
	}
	var p UUIDPointer
	if err := Decode(key, value, &p); err != nil {
		return m, false, err
	}
	if p.Snapshot {
		m.snapshot = id
	} else if p.Dataset != id {
		return m, false, Damaged(key, fmt.Errorf("it points at dataset %s", p.Dataset))
	}
	there, err = t.Get(DatasetKey(p.Dataset), &m.dataset)
	return m, there, err
}

// onlyMatch returns the match if there is exactly one. If there is no match, it returns the error in the argument none.
// If there are several, it fails with dataset.ErrAmbiguous.
func onlyMatch(found []match, ref string, none error) (match, error) {
	switch len(found) {
	case 0:
		return match{}, none
	case 1:
		return found[0], nil
	}
	var names []string
	for _, m := range found {
		names = append(names, m.String())
	}
	if len(found) == MatchesShown {
		names = append(names, "…")
	}
	return match{}, dataset.Errorf(dataset.ErrAmbiguous, "%q matches several: %s (use more digits of the UUID)",
		dataset.Clip(ref), strings.Join(names, ", "))
}

func isPrefix(ref string) bool { return dataset.CheckPrefix(strings.ToLower(ref)) == nil }

// Dataset reads the record of a dataset. It fails with dataset.ErrNotFound if there is none.
func (t *Tx) Dataset(id uuid.UUID) (dataset.Dataset, error) {
	var d dataset.Dataset
	ok, err := t.Get(DatasetKey(id), &d)
	if err == nil && !ok {
		err = dataset.Errorf(dataset.ErrNotFound, "no such dataset: %s", id)
	}
	return d, err
}

// Pool reads the record of the pool of a dataset. It fails with dataset.ErrOffline if there is none.
func (t *Tx) Pool(d dataset.Dataset) (dataset.Pool, error) {
	var p dataset.Pool
	ok, err := t.Get(PoolKey(d.Pool), &p)
	if err == nil && !ok {
		err = dataset.Errorf(dataset.ErrOffline,
			"volume %s: its pool %s is unknown (has its node registered?)", d.Volume, d.Pool)
	}
	return p, err
}

// Volume finds a live volume by name or alias, by NAME@PROFILE, or by a unique prefix of its dataset's UUID. It fails
// with dataset.ErrNotFound or ErrAmbiguous, or with dataset.ErrInvalid if the volume has another profile.
func (t *Tx) Volume(ref string) (dataset.Dataset, error) {
	return t.findByName(ref, "volume", func(d dataset.Dataset) bool { return d.State == dataset.StateReady })
}

// AnyDataset finds a dataset, live or in the trash, by a UUID prefix, or a live one by name.
func (t *Tx) AnyDataset(ref string) (dataset.Dataset, error) {
	return t.findByName(ref, "volume or dataset", isNotPurging)
}

// isNotPurging reports whether a dataset is not being destroyed.
func isNotPurging(d dataset.Dataset) bool { return d.State != dataset.StatePurging }

// findByName finds a dataset by name or prefix. If ref is a complete UUID, it finds only the dataset with that UUID,
// and not a volume with that name, because agents and schedules use UUIDs.
func (t *Tx) findByName(ref, what string, want func(dataset.Dataset) bool) (dataset.Dataset, error) {
	if id, err := uuid.Parse(ref); err == nil && id.String() == ref {
		var d dataset.Dataset
		if there, err := t.Get(DatasetKey(id), &d); err != nil || there && want(d) {
			return d, err
		}
	}
	d, ok, err := t.VolumeByName(ref)
	if err != nil || ok {
		return d, err
	}
	none := notFoundError(what, ref)
	if name, after, at := strings.Cut(ref, "@"); at {
		return volumeWithProfile(t, name, after, none)
	}
	if !isPrefix(ref) {
		return d, none
	}
	found, err := findMatches(t, ref, func(m match) bool { return m.snapshot == uuid.Nil && want(m.dataset) })
	if err != nil {
		return d, err
	}
	m, err := onlyMatch(found, ref, none)
	return m.dataset, err
}

func notFoundError(what, ref string) error {
	return dataset.Errorf(dataset.ErrNotFound, "no such %s: %q (drover volume ls lists the volumes)", what,
		dataset.Clip(ref))
}

// VolumeByName finds a live volume by its name or an alias only.
func (t *Tx) VolumeByName(name string) (d dataset.Dataset, ok bool, err error) {
	if dataset.CheckName(name) != nil {
		return d, false, nil
	}
	var c Claim
	if ok, err = t.Get(NameKey(name), &c); err != nil || !ok {
		return d, false, err
	}
	there, err := t.Get(DatasetKey(c.ID), &d)
	if err == nil && (!there || d.State != dataset.StateReady || !d.HasName(name)) {
		err = Inconsistent("%s points at %s, which is not a volume of that name", NameKey(name), DatasetKey(c.ID))
	}
	return d, err == nil, err
}

// Snapshot finds a snapshot by a prefix of its UUID, or by VOLUME@SNAPSHOT. If ref names a volume or dataset, snap may
// also be a name, and Snapshot finds only snapshots of that dataset.
func (t *Tx) Snapshot(ref, snap string) (dataset.Snapshot, error) {
	if ref == "" {
		if s, ok, err := snapshotAtSign(t, snap); err != nil || ok {
			return s, err
		}
		return snapshotByPrefix(t, snap, uuid.Nil)
	}
	d, err := t.AnyDataset(ref)
	if err != nil {
		return dataset.Snapshot{}, err
	}
	return t.SnapshotOf(d, snap)
}

// SnapshotOf finds a snapshot of a dataset by name or UUID prefix.
func (t *Tx) SnapshotOf(d dataset.Dataset, snap string) (dataset.Snapshot, error) {
	if dataset.CheckName(snap) == nil {
		var c Claim
		if ok, err := t.Get(SnapshotNameKey(d.ID, snap), &c); err != nil {
			return dataset.Snapshot{}, err
		} else if ok {
			s, err := t.ReadSnapshot(d.ID, c.ID)
			if dataset.KindOf(err) == dataset.ErrNotFound {
				err = Inconsistent("%s points at %s, which is missing", SnapshotNameKey(d.ID, snap),
					SnapshotKey(d.ID, c.ID))
			}
			return s, err
		}
	}
	return snapshotByPrefix(t, snap, d.ID)
}

// ReadSnapshot reads the record of a snapshot. It fails with dataset.ErrNotFound if there is none.
func (t *Tx) ReadSnapshot(ds, id uuid.UUID) (dataset.Snapshot, error) {
	var s dataset.Snapshot
	ok, err := t.Get(SnapshotKey(ds, id), &s)
	if err == nil && !ok {
		err = dataset.Errorf(dataset.ErrNotFound, "no such snapshot: %s", id)
	}
	return s, err
}

func snapshotByPrefix(t *Tx, prefix string, of uuid.UUID) (dataset.Snapshot, error) {
	var found []match
	var err error
	if isPrefix(prefix) {
		found, err = findMatches(t, prefix, func(m match) bool {
			return m.snapshot != uuid.Nil && (of == uuid.Nil || m.dataset.ID == of) && isNotPurging(m.dataset)
		})
	}
	if err == nil && len(found) == 0 {
		err = snapshotNotFound(t, prefix, of)
	}
	if err != nil {
		return dataset.Snapshot{}, err
	}
	m, err := onlyMatch(found, prefix, nil)
	if err != nil {
		return dataset.Snapshot{}, err
	}
	return t.ReadSnapshot(m.dataset.ID, m.snapshot)
}

// snapshotNotFound returns the error for a reference that matches no snapshot. If the reference names no volume, and
// snapshots have that name, the error names their volumes.
func snapshotNotFound(t *Tx, ref string, of uuid.UUID) error {
	var has []NamedSnapshot
	var err error
	if of == uuid.Nil {
		has, err = SnapshotsNamed(t, ref)
	}
	switch {
	case err != nil:
		return err
	case len(has) > 0:
		var volumes []string
		for _, n := range has {
			volumes = append(volumes, n.Volume)
		}
		return dataset.Errorf(dataset.ErrNotFound,
			"no such snapshot: %q (its name is known only in its volume: use --volume %s)", ref,
			strings.Join(volumes, " or --volume "))
	}
	return dataset.Errorf(dataset.ErrNotFound, "no such snapshot: %q (drover snapshot ls lists the snapshots)",
		dataset.Clip(ref))
}

// Source finds the source of a clone. from is a prefix of the UUID of a snapshot or dataset, live or in the trash. If
// names is true, as for -o from= and the clone command, from may also be the name of a volume, or VOLUME@SNAPSHOT. For
// @snapshot-PREFIX, names is false.
func (t *Tx) Source(from string, names bool) (dataset.Source, error) {
	what := "snapshot or dataset"
	if names {
		if d, ok, err := t.VolumeByName(from); err != nil {
			return dataset.Source{}, err
		} else if ok {
			return dataset.Source{Dataset: d.ID}, nil
		}
		what = "volume, snapshot or dataset"
	}
	none := dataset.Errorf(dataset.ErrNotFound,
		"no %s %q (use drover snapshot ls, volume ls and trash ls)", what, dataset.Clip(from))
	if name, after, at := strings.Cut(from, "@"); at && names {
		return sourceAtSign(t, name, after, none)
	}
	var found []match
	var err error
	if isPrefix(from) {
		found, err = findMatches(t, from, func(m match) bool { return isNotPurging(m.dataset) })
	}
	if err == nil && len(found) == 0 {
		err = sourceNotFound(t, from, names, none)
	}
	if err != nil {
		return dataset.Source{}, err
	}
	m, err := onlyMatch(found, from, none)
	if err != nil {
		return dataset.Source{}, err
	}
	return dataset.Source{Dataset: m.dataset.ID, Snapshot: m.snapshot}, nil
}

// FindDeleted finds a dataset that no longer has a name, by a unique prefix of its UUID or by its former name. It
// ignores datasets for which want returns false. If ref is the name of one dataset and a UUID prefix of another,
// FindDeleted fails: the other functions prefer the name, but the caller of FindDeleted may destroy the dataset.
func FindDeleted(t *Tx, ref string, want func(dataset.Dataset) bool) (dataset.Dataset, error) {
	var found []match
	var err error
	if isPrefix(ref) {
		found, err = findMatches(t, ref, func(m match) bool { return m.snapshot == uuid.Nil && want(m.dataset) })
	}
	if err == nil && dataset.CheckName(ref) == nil {
		found, err = addTrashed(t, ref, found, want)
	}
	if err != nil {
		return dataset.Dataset{}, err
	}
	switch len(found) {
	case 0:
		return dataset.Dataset{}, dataset.Errorf(dataset.ErrNotFound,
			"no such dataset in the trash: %q (drover trash ls lists them)", dataset.Clip(ref))
	case 1:
		return found[0].dataset, nil
	}
	return dataset.Dataset{}, ambiguousDeleted(found, ref)
}

// ambiguousDeleted returns the error that lists datasets with the same former name, the latest deleted first.
func ambiguousDeleted(found []match, ref string) error {
	at := func(m match) (at time.Time) {
		if m.dataset.Trash != nil {
			at = m.dataset.Trash.At
		}
		return at
	}
	slices.SortStableFunc(found, func(x, y match) int { return at(y).Compare(at(x)) })
	var names []string
	for i, m := range found {
		if i == MatchesShown {
			names = append(names, "…")
			break
		}
		name := m.String()
		if t := at(m); !t.IsZero() {
			name += " deleted at " + t.UTC().Format("2006-01-02 15:04:05 MST")
		}
		names = append(names, name)
	}
	return dataset.Errorf(dataset.ErrAmbiguous, "%q matches several: %s (use more digits of the "+
		"UUID)", dataset.Clip(ref),
		strings.Join(names, ", "))
}

// addTrashed adds to found the datasets in the trash whose former name is name.
func addTrashed(t *Tx, name string, found []match, want func(dataset.Dataset) bool) ([]match, error) {
	entries, err := t.List(TrashPrefix, "", 0)
	if err != nil {
		return nil, err
	}
	for _, e := range entries {
		id, err := ParseKey(e.Key, TrashPrefix)
		if err != nil {
			return nil, err
		}
		var seen, d dataset.Dataset
		if there, err := t.Peek(DatasetKey(id), &seen); err != nil {
			return nil, err
		} else if !there || seen.Volume != name {
			continue
		}
		there, err := t.Get(DatasetKey(id), &d)
		if err != nil {
			return nil, err
		}
		twice := slices.ContainsFunc(found, func(m match) bool { return m.dataset.ID == id })
		if there && d.Volume == name && want(d) && !twice {
			found = append(found, match{dataset: d})
		}
	}
	return found, nil
}
