package doctor

import (
	"context"
	"errors"

	"github.com/google/uuid"

	"github.com/droverhq/drover/agent/host"
	"github.com/droverhq/drover/agent/pool"
	"github.com/droverhq/drover/backends"
	"github.com/droverhq/drover/control/api"
	"github.com/droverhq/drover/control/condition"
	"github.com/droverhq/drover/dataset"
)

// CheckSnapshots compares the snapshots in a pool with those in the store.
func (x *Doctor) CheckSnapshots(ctx context.Context, r *Report, p *pool.Pool, entries []backends.Entry,
	known map[uuid.UUID]dataset.Dataset) {
	recorded, err := x.recordedSnapshots(ctx)
	if err != nil {
		r.Add(condition.SnapshotsUnreadable, "control", "", err)
		return
	}
	var volumes []dataset.Dataset
	defer func() { x.CheckTight(ctx, r, p, volumes...) }()
	for _, e := range entries {
		d, onRecord := known[e.ID]
		if !onRecord || x.Cleaner.IsNeeded(e.ID) {
			continue
		}
		volumes = append(volumes, d)
		there := map[uuid.UUID]bool{}
		for _, s := range e.Snapshots {
			there[s.ID] = true
			if !recorded[d.ID][s.ID] && !host.IsInternal(s) && x.isStillUnknown(ctx, s.ID) {
				r.Add(condition.SnapshotUnknown, "snapshot "+s.ID.String(),
					"drover pool adopt "+p.Record.AdoptPath()+" restores it", p.Name, d.Volume)
			}
		}
		for id := range recorded[d.ID] {
			if !there[id] && d.State != dataset.StatePurging && x.isStillMissing(ctx, p, d.ID, id) {
				r.Add(condition.SnapshotMissing, "snapshot "+id.String(), "drover snapshot inspect "+id.String(),
					d.Volume, p.Name)
			}
		}
	}
}

// recordedSnapshots returns all snapshots that control knows, by dataset.
func (x *Doctor) recordedSnapshots(ctx context.Context) (map[uuid.UUID]map[uuid.UUID]bool, error) {
	out := map[uuid.UUID]map[uuid.UUID]bool{}
	for page := (api.Page{}); ; {
		list, err := x.Control.Snapshots(ctx, "", page)
		if err != nil {
			return nil, err
		}
		for _, s := range list.Items {
			if out[s.Dataset] == nil {
				out[s.Dataset] = map[uuid.UUID]bool{}
			}
			out[s.Dataset][s.ID] = true
		}
		if page.After = list.Next; page.After == "" {
			return out, nil
		}
	}
}

// isStillUnknown asks again, because the snapshot may have been recorded meanwhile.
func (x *Doctor) isStillUnknown(ctx context.Context, id uuid.UUID) bool {
	_, err := x.Control.Snapshot(ctx, "", id.String())
	return errors.Is(err, dataset.ErrNotFound)
}

// isStillMissing looks again, because the snapshot may have been made or deleted meanwhile.
func (x *Doctor) isStillMissing(ctx context.Context, p *pool.Pool, ds, id uuid.UUID) bool {
	e, err := p.Storage.Stat(ctx, ds)
	if err != nil || x.isStillUnknown(ctx, id) {
		return false
	}
	for _, s := range e.Snapshots {
		if s.ID == id {
			return false
		}
	}
	return true
}
