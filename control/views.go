package control

import (
	"cmp"
	"context"
	"slices"
	"strings"

	"github.com/google/uuid"

	"github.com/droverhq/drover/control/api"
	"github.com/droverhq/drover/dataset"
)

const pageMost = 1000

func pageLimit(p api.Page) int {
	if p.Limit <= 0 || p.Limit > pageMost {
		return pageMost
	}
	return p.Limit
}

func after(prefix string, p api.Page) string {
	if p.After == "" {
		return ""
	}
	return prefix + p.After
}

// Volume returns one, by name or by a unique prefix of its dataset's UUID.
func (s *Service) Volume(ctx context.Context, ref string) (v api.Volume, err error) {
	err = s.view(ctx, func(t *tx) error {
		d, err := t.volume(ref)
		if err != nil {
			return err
		}
		v, err = s.present(t, d)
		return err
	})
	return v, err
}

// Volumes lists the live ones by name.
func (s *Service) Volumes(ctx context.Context, p api.Page) (api.List[api.Volume], error) {
	return s.listDatasets(ctx, "names/", p, func(key string, value []byte) (uuid.UUID, error) {
		var c claim
		err := decode(key, value, &c)
		return c.ID, err
	})
}

// Trash lists the datasets in the trash by UUID.
func (s *Service) Trash(ctx context.Context, p api.Page) (api.List[api.Volume], error) {
	return s.listDatasets(ctx, "trash/", p, func(key string, _ []byte) (uuid.UUID, error) {
		return uuid.Parse(strings.TrimPrefix(key, "trash/"))
	})
}

func (s *Service) listDatasets(ctx context.Context, prefix string, p api.Page, id func(string, []byte) (uuid.UUID, error)) (out api.List[api.Volume], err error) {
	limit := pageLimit(p)
	entries, err := s.store.List(ctx, prefix, after(prefix, p), limit)
	if err != nil {
		return out, unavailable(err)
	}
	out.Items = make([]api.Volume, 0, len(entries))
	t := newTx(ctx, s.store)
	for _, e := range entries {
		ds, err := id(e.Key, e.Value)
		if err != nil {
			return out, err
		}
		d, err := t.dataset(ds)
		if dataset.KindOf(err) == dataset.ErrNotFound {
			continue // deleted since the list was read
		}
		if err != nil {
			return out, err
		}
		v, err := s.present(t, d)
		if err != nil {
			return out, err
		}
		out.Items = append(out.Items, v)
	}
	if len(entries) == limit {
		out.Next = strings.TrimPrefix(entries[limit-1].Key, prefix)
	}
	return out, nil
}

// present adds to a record what people want to see beside it.
func (s *Service) present(t *tx, d dataset.Dataset) (api.Volume, error) {
	v := api.Volume{Dataset: d, Node: t.nodeName(d.Home)}
	var pool dataset.Pool
	if _, err := t.get(poolKey(d.Pool), &pool); err != nil {
		return v, err
	}
	v.PoolName, v.Backend = pool.Name, pool.Backend
	var lease dataset.Lease
	ok, err := t.get(leaseKey(d.ID), &lease)
	if err != nil {
		return v, err
	}
	if ok {
		v.Lease = &lease
	}
	snaps, err := t.store.List(t.ctx, snapshotPrefix(d.ID), "", 0)
	if err != nil {
		return v, unavailable(err)
	}
	v.Snapshots = len(snaps)
	s.mu.Lock()
	defer s.mu.Unlock()
	if st, ok := s.datasets[d.ID]; ok {
		v.Status = &st
	}
	return v, nil
}

// Snapshots lists those of one dataset, oldest first; with an empty ref all, in
// the order of datasets.
func (s *Service) Snapshots(ctx context.Context, ref string, p api.Page) (out api.List[dataset.Snapshot], err error) {
	t := newTx(ctx, s.store)
	prefix := "snapshots/"
	if ref != "" {
		d, err := t.anyDataset(ref)
		if err != nil {
			return out, err
		}
		prefix = snapshotPrefix(d.ID)
	}
	limit := pageLimit(p)
	entries, err := s.store.List(ctx, prefix, after("snapshots/", p), limit)
	if err != nil {
		return out, unavailable(err)
	}
	out.Items = make([]dataset.Snapshot, len(entries))
	for i, e := range entries {
		if err := decode(e.Key, e.Value, &out.Items[i]); err != nil {
			return out, err
		}
	}
	if len(entries) == limit {
		out.Next = strings.TrimPrefix(entries[limit-1].Key, "snapshots/")
	}
	slices.SortStableFunc(out.Items, func(a, b dataset.Snapshot) int {
		return cmp.Or(strings.Compare(a.Dataset.String(), b.Dataset.String()), a.Created.Compare(b.Created))
	})
	return out, nil
}

// Snapshot finds one by UUID prefix or, in a volume, by name.
func (s *Service) Snapshot(ctx context.Context, ref, snapshot string) (snap dataset.Snapshot, err error) {
	err = s.view(ctx, func(t *tx) error {
		snap, err = t.snapshot(ref, snapshot)
		return err
	})
	return snap, err
}
