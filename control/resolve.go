package control

import (
	"strings"

	"github.com/google/uuid"

	"github.com/droverhq/drover/dataset"
)

// match is one thing that a UUID prefix names.
type match struct {
	id uuid.UUID
	pointer
}

// matches returns up to ten things whose UUID begins with prefix.
func (t *tx) matches(prefix string) ([]match, error) {
	list, err := t.store.List(t.ctx, "by-uuid/"+strings.ToLower(prefix), "", 10)
	if err != nil {
		return nil, unavailable(err)
	}
	var found []match
	for _, e := range list {
		m := match{}
		if m.id, err = uuid.Parse(strings.TrimPrefix(e.Key, "by-uuid/")); err != nil {
			return nil, decode(e.Key, e.Value, &m.pointer)
		}
		if err := decode(e.Key, e.Value, &m.pointer); err != nil {
			return nil, err
		}
		found = append(found, m)
	}
	return found, nil
}

// dataset reads the record of a dataset; ErrNotFound.
func (t *tx) dataset(id uuid.UUID) (dataset.Dataset, error) {
	var d dataset.Dataset
	ok, err := t.get(datasetKey(id), &d)
	if err == nil && !ok {
		err = dataset.Errorf(dataset.ErrNotFound, "no dataset %s", id)
	}
	return d, err
}

// volume finds a live volume by name, or by a unique prefix of its dataset's
// UUID. ErrNotFound, ErrAmbiguous.
func (t *tx) volume(ref string) (dataset.Dataset, error) {
	d, ok, err := t.byName(ref)
	if err != nil || ok {
		return d, err
	}
	d, err = t.byPrefix(ref, "volume", func(d dataset.Dataset) bool { return d.State == dataset.StateReady })
	return d, err
}

// anyDataset finds a dataset, live or in the trash, by UUID prefix, or a live
// one by name.
func (t *tx) anyDataset(ref string) (dataset.Dataset, error) {
	d, ok, err := t.byName(ref)
	if err != nil || ok {
		return d, err
	}
	return t.byPrefix(ref, "volume or dataset", func(d dataset.Dataset) bool { return d.State != dataset.StatePurging })
}

func (t *tx) byName(name string) (d dataset.Dataset, ok bool, err error) {
	if dataset.CheckName(name) != nil {
		return d, false, nil
	}
	var c claim
	if ok, err = t.get(nameKey(name), &c); err != nil || !ok {
		return d, false, err
	}
	d, err = t.dataset(c.ID)
	return d, err == nil, err
}

func (t *tx) byPrefix(ref, what string, want func(dataset.Dataset) bool) (dataset.Dataset, error) {
	none := dataset.Errorf(dataset.ErrNotFound, "no such %s: %q (drover volume ls shows what there is)", what, clip(ref))
	if dataset.CheckPrefix(strings.ToLower(ref)) != nil {
		return dataset.Dataset{}, none
	}
	found, err := t.matches(ref)
	if err != nil {
		return dataset.Dataset{}, err
	}
	var hits []dataset.Dataset
	for _, m := range found {
		if m.Snapshot {
			continue
		}
		d, err := t.dataset(m.id)
		if err != nil {
			return d, err
		}
		if want(d) {
			hits = append(hits, d)
		}
	}
	switch len(hits) {
	case 0:
		return dataset.Dataset{}, none
	case 1:
		return hits[0], nil
	}
	var names []string
	for _, d := range hits {
		names = append(names, d.ID.String()+" ("+d.Volume+")")
	}
	return dataset.Dataset{}, dataset.Errorf(dataset.ErrAmbiguous, "%q matches several: %s", clip(ref), strings.Join(names, ", "))
}

// snapshot finds a snapshot by UUID prefix, or by name in the volume ref.
func (t *tx) snapshot(ref, snap string) (dataset.Snapshot, error) {
	if ref != "" {
		d, err := t.anyDataset(ref)
		if err != nil {
			return dataset.Snapshot{}, err
		}
		var c claim
		if dataset.CheckName(snap) == nil {
			if ok, err := t.get(snapnameKey(d.ID, snap), &c); err != nil {
				return dataset.Snapshot{}, err
			} else if ok {
				return t.readSnapshot(d.ID, c.ID)
			}
		}
		return t.snapshotByPrefix(snap, d.ID)
	}
	return t.snapshotByPrefix(snap, uuid.Nil)
}

func (t *tx) readSnapshot(ds, id uuid.UUID) (dataset.Snapshot, error) {
	var s dataset.Snapshot
	ok, err := t.get(snapshotKey(ds, id), &s)
	if err == nil && !ok {
		err = dataset.Errorf(dataset.ErrNotFound, "no snapshot %s", id)
	}
	return s, err
}

func (t *tx) snapshotByPrefix(prefix string, of uuid.UUID) (dataset.Snapshot, error) {
	none := dataset.Errorf(dataset.ErrNotFound, "no such snapshot: %q (drover snapshot ls shows what there is)", clip(prefix))
	if dataset.CheckPrefix(strings.ToLower(prefix)) != nil {
		return dataset.Snapshot{}, none
	}
	found, err := t.matches(prefix)
	if err != nil {
		return dataset.Snapshot{}, err
	}
	var hits []match
	var names []string
	for _, m := range found {
		if m.Snapshot && (of == uuid.Nil || m.Dataset == of) {
			hits = append(hits, m)
			names = append(names, m.id.String())
		}
	}
	switch len(hits) {
	case 0:
		return dataset.Snapshot{}, none
	case 1:
		return t.readSnapshot(hits[0].Dataset, hits[0].id)
	}
	return dataset.Snapshot{}, dataset.Errorf(dataset.ErrAmbiguous, "%q matches several snapshots: %s", clip(prefix), strings.Join(names, ", "))
}

// source finds what a clone is to be made of: for @snapshot-PREFIX a UUID
// prefix of a snapshot or dataset, live or in the trash; for -o from= and the
// clone command a name as well.
func (t *tx) source(from string, names bool) (dataset.Source, error) {
	if names {
		if d, ok, err := t.byName(from); err != nil {
			return dataset.Source{}, err
		} else if ok {
			return dataset.Source{Dataset: d.ID}, nil
		}
	}
	none := dataset.Errorf(dataset.ErrNotFound,
		"no snapshot or dataset has a UUID that begins with %q (drover snapshot ls, volume ls and trash ls show those there are)", clip(from))
	if dataset.CheckPrefix(strings.ToLower(from)) != nil {
		return dataset.Source{}, none
	}
	found, err := t.matches(from)
	if err != nil {
		return dataset.Source{}, err
	}
	var hits []dataset.Source
	var names2 []string
	for _, m := range found {
		src := dataset.Source{Dataset: m.id}
		label := "dataset " + m.id.String()
		if m.Snapshot {
			src = dataset.Source{Dataset: m.Dataset, Snapshot: m.id}
			label = "snapshot " + m.id.String()
		}
		d, err := t.dataset(src.Dataset)
		if err != nil {
			return dataset.Source{}, err
		}
		if d.State == dataset.StatePurging {
			continue
		}
		hits, names2 = append(hits, src), append(names2, label+" ("+d.Volume+")")
	}
	switch len(hits) {
	case 0:
		return dataset.Source{}, none
	case 1:
		return hits[0], nil
	}
	return dataset.Source{}, dataset.Errorf(dataset.ErrAmbiguous, "%q matches several: %s (say more of the UUID)", clip(from), strings.Join(names2, ", "))
}

func clip(s string) string {
	if len(s) > 140 {
		return s[:137] + "..."
	}
	return s
}
