package control

import (
	"fmt"
	"strings"

	"github.com/google/uuid"

	"github.com/droverhq/drover/control/record"
	"github.com/droverhq/drover/dataset"
)

// match is one thing that a UUID prefix names.
type match struct {
	dataset  dataset.Dataset // the dataset, or the one of the snapshot
	snapshot uuid.UUID       // uuid.Nil: the dataset itself
}

func (m match) String() string {
	if m.snapshot == uuid.Nil {
		return fmt.Sprintf("dataset %s (%s)", m.dataset.ID, m.dataset.Volume)
	}
	return fmt.Sprintf("snapshot %s (%s)", m.snapshot, m.dataset.Volume)
}

const (
	matchesRead  = 64 // read at once
	matchesShown = 10 // looked for, and shown
)

// findMatches returns up to matchesShown wanted things whose UUID begins with prefix. It examines all, because the
// wanted ones may come after any number of others. A thing that was removed since its key was read is no match.
func findMatches(t *tx, prefix string, want func(match) bool) (found []match, err error) {
	prefix = record.UUIDPrefix + strings.ToLower(prefix)
	for after := ""; ; {
		entries, err := t.list(prefix, after, matchesRead)
		if err != nil {
			return nil, err
		}
		for _, e := range entries {
			after = e.Key
			m, there, err := readMatch(t, e.Key, e.Value)
			if err != nil {
				return nil, err
			}
			if there && want(m) {
				found = append(found, m)
			}
			if len(found) == matchesShown {
				return found, nil
			}
		}
		if len(entries) < matchesRead {
			return found, nil
		}
	}
}

func readMatch(t *tx, key string, value []byte) (m match, there bool, err error) {
	id, err := record.IDIn(key, record.UUIDPrefix)
	if err != nil {
		return m, false, err
	}
	var p record.UUIDPointer
	if err := record.Decode(key, value, &p); err != nil {
		return m, false, err
	}
	if p.Snapshot {
		m.snapshot = id
	} else if p.Dataset != id {
		return m, false, record.Damaged(key, fmt.Errorf("it points at dataset %s", p.Dataset))
	}
	there, err = t.get(record.DatasetKey(p.Dataset), &m.dataset)
	return m, there, err
}

// one returns the only one of several matches. none is the error if there is no match at all.
func one(found []match, ref string, none error) (match, error) {
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
	if len(found) == matchesShown {
		names = append(names, "…")
	}
	return match{}, dataset.Errorf(dataset.ErrAmbiguous, "%q matches several: %s (say more of the UUID)",
		dataset.Clip(ref), strings.Join(names, ", "))
}

func isPrefix(ref string) bool { return dataset.CheckPrefix(strings.ToLower(ref)) == nil }

// dataset reads the record of a dataset; dataset.ErrNotFound.
func (t *tx) dataset(id uuid.UUID) (dataset.Dataset, error) {
	var d dataset.Dataset
	ok, err := t.get(record.DatasetKey(id), &d)
	if err == nil && !ok {
		err = dataset.Errorf(dataset.ErrNotFound, "no dataset %s", id)
	}
	return d, err
}

// pool reads the record of the pool of a dataset; dataset.ErrOffline.
func (t *tx) pool(d dataset.Dataset) (dataset.Pool, error) {
	var p dataset.Pool
	ok, err := t.get(record.PoolKey(d.Pool), &p)
	if err == nil && !ok {
		err = dataset.Errorf(dataset.ErrOffline,
			"volume %s: pool %s, on which it lies, is not known (has its node registered?)", d.Volume, d.Pool)
	}
	return p, err
}

// volume finds a live volume by name, or by a unique prefix of its dataset's UUID. dataset.ErrNotFound,
// ErrAmbiguous.
func (t *tx) volume(ref string) (dataset.Dataset, error) {
	return t.named(ref, "volume", func(d dataset.Dataset) bool { return d.State == dataset.StateReady })
}

// anyDataset finds a dataset, live or in the trash, by a UUID prefix, or a live one by name.
func (t *tx) anyDataset(ref string) (dataset.Dataset, error) {
	return t.named(ref, "volume or dataset", lasting)
}

// lasting reports whether a dataset is not being destroyed.
func lasting(d dataset.Dataset) bool { return d.State != dataset.StatePurging }

// named finds a dataset by name or prefix. A complete UUID means the dataset with it, not a volume of that name:
// agents and schedules ask by UUID.
func (t *tx) named(ref, what string, want func(dataset.Dataset) bool) (dataset.Dataset, error) {
	if id, err := uuid.Parse(ref); err == nil && id.String() == ref {
		var d dataset.Dataset
		if there, err := t.get(record.DatasetKey(id), &d); err != nil || there && want(d) {
			return d, err
		}
	}
	d, ok, err := t.byName(ref)
	if err != nil || ok {
		return d, err
	}
	none := noSuch(what, ref)
	if !isPrefix(ref) {
		return d, none
	}
	found, err := findMatches(t, ref, func(m match) bool { return m.snapshot == uuid.Nil && want(m.dataset) })
	if err != nil {
		return d, err
	}
	m, err := one(found, ref, none)
	return m.dataset, err
}

func noSuch(what, ref string) error {
	return dataset.Errorf(dataset.ErrNotFound, "no such %s: %q (drover volume ls shows what there is)", what,
		dataset.Clip(ref))
}

// byName finds a live volume by its name only.
func (t *tx) byName(name string) (d dataset.Dataset, ok bool, err error) {
	if dataset.CheckName(name) != nil {
		return d, false, nil
	}
	var c record.Claim
	if ok, err = t.get(record.NameKey(name), &c); err != nil || !ok {
		return d, false, err
	}
	there, err := t.get(record.DatasetKey(c.ID), &d)
	if err == nil && (!there || d.State != dataset.StateReady || d.Volume != name) {
		err = torn("%s points at %s, which is not a volume of that name", record.NameKey(name), record.DatasetKey(c.ID))
	}
	return d, err == nil, err
}

// snapshot finds a snapshot by UUID prefix. With a volume or dataset it finds only a snapshot of that, and by
// name too.
func (t *tx) snapshot(ref, snap string) (dataset.Snapshot, error) {
	if ref == "" {
		return snapshotByPrefix(t, snap, uuid.Nil)
	}
	d, err := t.anyDataset(ref)
	if err != nil {
		return dataset.Snapshot{}, err
	}
	return t.snapshotOf(d, snap)
}

func (t *tx) snapshotOf(d dataset.Dataset, snap string) (dataset.Snapshot, error) {
	if dataset.CheckName(snap) == nil {
		var c record.Claim
		if ok, err := t.get(record.SnapshotNameKey(d.ID, snap), &c); err != nil {
			return dataset.Snapshot{}, err
		} else if ok {
			s, err := t.readSnapshot(d.ID, c.ID)
			if dataset.KindOf(err) == dataset.ErrNotFound {
				err = torn("%s points at %s, which is missing", record.SnapshotNameKey(d.ID, snap),
					record.SnapshotKey(d.ID, c.ID))
			}
			return s, err
		}
	}
	return snapshotByPrefix(t, snap, d.ID)
}

func (t *tx) readSnapshot(ds, id uuid.UUID) (dataset.Snapshot, error) {
	var s dataset.Snapshot
	ok, err := t.get(record.SnapshotKey(ds, id), &s)
	if err == nil && !ok {
		err = dataset.Errorf(dataset.ErrNotFound, "no snapshot %s", id)
	}
	return s, err
}

func snapshotByPrefix(t *tx, prefix string, of uuid.UUID) (dataset.Snapshot, error) {
	var found []match
	var err error
	if isPrefix(prefix) {
		found, err = findMatches(t, prefix, func(m match) bool {
			return m.snapshot != uuid.Nil && (of == uuid.Nil || m.dataset.ID == of) && lasting(m.dataset)
		})
	}
	if err == nil && len(found) == 0 {
		err = noSnapshot(t, prefix, of)
	}
	if err != nil {
		return dataset.Snapshot{}, err
	}
	m, err := one(found, prefix, nil)
	if err != nil {
		return dataset.Snapshot{}, err
	}
	return t.readSnapshot(m.dataset.ID, m.snapshot)
}

// noSnapshot is the error for a reference without a match. For a name that only other volumes have it says which.
func noSnapshot(t *tx, ref string, of uuid.UUID) error {
	var has []string
	var err error
	if of == uuid.Nil {
		has, err = volumesWith(t, ref)
	}
	switch {
	case err != nil:
		return err
	case len(has) > 0:
		return dataset.Errorf(dataset.ErrNotFound,
			"no such snapshot: %q (its name is known in its volume alone: say --volume %s)", ref,
			strings.Join(has, " or --volume "))
	}
	return dataset.Errorf(dataset.ErrNotFound, "no such snapshot: %q (drover snapshot ls shows what there is)",
		dataset.Clip(ref))
}

// volumesWith returns the first few live volumes that have a snapshot of a name.
func volumesWith(t *tx, name string) (has []string, err error) {
	if dataset.CheckName(name) != nil {
		return nil, nil
	}
	for after := ""; len(has) < 3; {
		entries, err := t.list(record.SnapshotNamesPrefix, after, pageMost)
		if err != nil {
			return nil, err
		}
		for _, e := range entries {
			after = e.Key
			of, is := strings.CutSuffix(strings.TrimPrefix(e.Key, record.SnapshotNamesPrefix), "/"+name)
			if !is {
				continue
			}
			id, err := record.IDIn(record.SnapshotNamesPrefix+of, record.SnapshotNamesPrefix)
			if err != nil {
				return nil, err
			}
			var d dataset.Dataset
			if there, err := t.get(record.DatasetKey(id), &d); err != nil {
				return nil, err
			} else if there && d.State == dataset.StateReady && len(has) < 3 {
				has = append(has, d.Volume)
			}
		}
		if len(entries) < pageMost {
			break
		}
	}
	return has, nil
}

// source finds the source of a clone. For @snapshot-PREFIX that is a UUID prefix of a snapshot or dataset, live
// or in the trash; for -o from= and the clone command it may also be the name of a volume.
func (t *tx) source(from string, names bool) (dataset.Source, error) {
	what := "snapshot or dataset has a UUID that begins with"
	if names {
		if d, ok, err := t.byName(from); err != nil {
			return dataset.Source{}, err
		} else if ok {
			return dataset.Source{Dataset: d.ID}, nil
		}
		what = "volume is named, and no snapshot or dataset has a UUID that begins with,"
	}
	none := dataset.Errorf(dataset.ErrNotFound,
		"no %s %q (drover snapshot ls, volume ls and trash ls show those there are)", what, dataset.Clip(from))
	if !isPrefix(from) {
		return dataset.Source{}, none
	}
	found, err := findMatches(t, from, func(m match) bool { return lasting(m.dataset) })
	if err != nil {
		return dataset.Source{}, err
	}
	m, err := one(found, from, none)
	if err != nil {
		return dataset.Source{}, err
	}
	return dataset.Source{Dataset: m.dataset.ID, Snapshot: m.snapshot}, nil
}
