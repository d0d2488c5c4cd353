package view

import (
	"context"
	"maps"
	"slices"
	"strings"

	"github.com/google/uuid"

	"github.com/droverhq/drover/control/api"
	"github.com/droverhq/drover/control/record"
	"github.com/droverhq/drover/dataset"
)

// Snapshots lists the snapshots of one dataset, the oldest first. If ref is empty, it lists all snapshots, ordered by
// dataset.
func (s *Views) Snapshots(ctx context.Context, ref string, p api.Page) (out api.List[dataset.Snapshot], err error) {
	t := record.NewTx(ctx, s.Ledger.Store)
	if ref == "" {
		return allSnapshots(t, p)
	}
	var d dataset.Dataset
	if err := s.Ledger.View(ctx, func(t *record.Tx) error {
		d, err = t.AnyDataset(ref)
		return err
	}); err != nil {
		return out, err
	}
	list, err := record.ListAll[dataset.Snapshot](t, record.SnapshotPrefix(d.ID))
	if err != nil {
		return out, err
	}
	slices.SortFunc(list, Older)
	// The cursor consists of a time and a UUID, so that it stays valid if its snapshot is removed.
	from, _ := slices.BinarySearchFunc(list, p.After, func(s dataset.Snapshot, after string) int {
		if p.After == "" || cursor(s) > after {
			return 1
		}
		return -1
	})
	out.Items = list[from:]
	for i := range out.Items {
		out.Items[i].Volume = d.Volume
	}
	if limit := p.Size(); len(out.Items) > limit {
		out.Items = out.Items[:limit]
		out.Next = cursor(out.Items[limit-1])
	}
	return out, nil
}

// allSnapshots lists the snapshots of all datasets. The record of a snapshot has the name that the volume had when the
// snapshot was taken, so the list has the present name instead.
func allSnapshots(t *record.Tx, p api.Page) (out api.List[dataset.Snapshot], err error) {
	limit := p.Size()
	entries, err := t.List(record.SnapshotsPrefix, After(record.SnapshotsPrefix, p), limit)
	if err != nil {
		return out, err
	}
	items := make([]dataset.Snapshot, len(entries))
	keys := map[string]bool{}
	for i, e := range entries {
		if err := record.Decode(e.Key, e.Value, &items[i]); err != nil {
			return out, err
		}
		keys[record.DatasetKey(items[i].Dataset)] = true
	}
	if err := t.Prefetch(slices.Collect(maps.Keys(keys))); err != nil {
		return out, err
	}
	volumes := map[uuid.UUID]string{}
	for i := range items {
		if items[i].Volume, err = presentName(t, items[i], volumes); err != nil {
			return out, err
		}
	}
	out.Items = items
	if len(entries) == limit {
		out.Next = strings.TrimPrefix(entries[limit-1].Key, record.SnapshotsPrefix)
	}
	return out, nil
}

// presentName returns the present name of the volume of a snapshot. known has the names that were already read. If the
// dataset was removed meanwhile, presentName returns the name in the snapshot.
func presentName(t *record.Tx, s dataset.Snapshot, known map[uuid.UUID]string) (string, error) {
	if name, ok := known[s.Dataset]; ok {
		return name, nil
	}
	var d dataset.Dataset
	ok, err := t.Get(record.DatasetKey(s.Dataset), &d)
	if err != nil || !ok {
		return s.Volume, err
	}
	known[s.Dataset] = d.Volume
	return d.Volume, nil
}

// Older compares two snapshots by time, and by UUID if the times are equal.
func Older(a, b dataset.Snapshot) int {
	if c := a.Created.Compare(b.Created); c != 0 {
		return c
	}
	return strings.Compare(a.ID.String(), b.ID.String())
}

// cursor returns the cursor of a snapshot. Cursors sort as Older does.
func cursor(s dataset.Snapshot) string {
	return s.Created.UTC().Format("2006-01-02T15:04:05.000000000") + "/" + s.ID.String()
}

// Snapshot finds a snapshot by UUID prefix or, in a volume, by name.
func (s *Views) Snapshot(ctx context.Context, ref, snapshot string) (snap dataset.Snapshot, err error) {
	err = s.Ledger.View(ctx, func(t *record.Tx) error {
		snap, err = t.Snapshot(ref, snapshot)
		if err == nil {
			snap.Volume, err = presentName(t, snap, map[uuid.UUID]string{})
		}
		return err
	})
	return snap, err
}
