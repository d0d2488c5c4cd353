package agent

import (
	"context"

	"github.com/google/uuid"

	"github.com/droverhq/drover/agent/lineage"
)

// The next difference to a copy is based on a snapshot that its home and the copy both have. A move takes these
// snapshots to the next home, because otherwise each copy would start again there.

// Shared implements transfer.Source.
func (s sending) Shared(ctx context.Context, ds, want uuid.UUID) []uuid.UUID {
	pool, err := s.Pool(ctx, ds)
	if err != nil {
		return nil
	}
	e, err := pool.Stat(ctx, ds)
	if err != nil {
		return nil
	}
	i := lineage.IndexOf(e, want)
	if i < 0 {
		return nil
	}
	if last, shared := lineage.SharedBefore(e, e.Snapshots[i].At()); shared {
		return []uuid.UUID{last.ID}
	}
	return nil
}

// Bases implements transfer.Source. The snapshots on which copies are based are kept until the move ends.
func (s sending) Bases(ctx context.Context, ds uuid.UUID) (ids []uuid.UUID) {
	a := s.a
	d, home := a.Cache.Dataset(ds)
	if !home {
		return nil
	}
	v, err := a.Control.Volume(ctx, ds.String())
	if err != nil || v.Move == uuid.Nil {
		return nil // a replica that finds no base starts again, so nothing waits for it
	}
	pool, err := a.pools.Online(ctx, d.Pool)
	if err != nil {
		return nil
	}
	e, err := pool.Stat(ctx, ds)
	if err != nil {
		return nil
	}
	for _, k := range v.Kept {
		if k.Node == asker(ctx) {
			continue
		}
		if s, rests := lineage.BaseOf(e, k.Copy); rests {
			ids = append(ids, s.ID)
		}
	}
	a.retention.SetBases(ds, v.Move, ids)
	return ids
}
