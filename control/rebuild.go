package control

import (
	"context"

	"github.com/google/uuid"

	"github.com/droverhq/drover/control/api"
	"github.com/droverhq/drover/dataset"
)

// Rebuild brings back what was found in a node's pools and is not on record:
// after a lost store, or when a pool of another host was adopted. What is on
// record is left as it is. A name that is taken is not taken away: the dataset
// comes back under name-UUID8. Again: nothing more.
func (s *Service) Rebuild(ctx context.Context, node uuid.UUID, found []api.Found) ([]api.Rebuilt, error) {
	var out []api.Rebuilt
	for _, f := range found {
		r, err := s.rebuildOne(ctx, node, f)
		if err != nil {
			return out, err
		}
		out = append(out, r)
	}
	return out, nil
}

func (s *Service) rebuildOne(ctx context.Context, node uuid.UUID, f api.Found) (r api.Rebuilt, err error) {
	_, err = s.update(ctx, func(t *tx) error {
		d := f.Dataset
		r = api.Rebuilt{Dataset: d.ID, Volume: d.Volume, Action: "known"}
		var old dataset.Dataset
		if known, err := t.get(datasetKey(d.ID), &old); err != nil || known {
			r.Volume = old.Volume
			return err
		}
		d.Home, d.Pool, d.Epoch = node, f.Pool, d.Epoch+1
		if err := s.reclaim(t, &d, &r); err != nil {
			return err
		}
		lease := dataset.Lease{Dataset: d.ID, Node: node, Epoch: d.Epoch, State: dataset.LeaseHeld}
		for key, v := range map[string]any{uuidKey(d.ID): pointer{Dataset: d.ID}, leaseKey(d.ID): lease, homeKey(node, d.ID): claim{d.ID}} {
			if err := t.put(key, v); err != nil {
				return err
			}
		}
		t.event("volume.rebuild", d, r.Action)
		return t.putDataset(d)
	})
	if err != nil {
		return r, err
	}
	return r, s.rebuildSnapshots(ctx, f)
}

// reclaim gives a dataset its name back, or puts it in the trash again.
func (s *Service) reclaim(t *tx, d *dataset.Dataset, r *api.Rebuilt) error {
	if d.State != dataset.StateReady || dataset.CheckName(d.Volume) != nil {
		if d.Trash == nil {
			d.Trash = &dataset.Trash{At: s.Clock.Now()}
		}
		d.State, r.Action = dataset.StateTrashed, "trashed"
		return t.put(trashKey(d.ID), d.Trash)
	}
	r.Action = "restored"
	var c claim
	taken, err := t.get(nameKey(d.Volume), &c)
	if err != nil {
		return err
	}
	if taken {
		r.Action, r.Note = "renamed", "the name "+d.Volume+" is dataset "+c.ID.String()+"'s"
		if len(d.Volume) > 110 {
			d.Volume = d.Volume[:110]
		}
		d.Volume += "-" + d.ID.String()[:8]
		d.Spelling, r.Volume = d.Volume, d.Volume
	}
	return t.put(nameKey(d.Volume), claim{d.ID})
}

// rebuildSnapshots brings back snapshot records, one transaction each: there can
// be more than fit in one.
func (s *Service) rebuildSnapshots(ctx context.Context, f api.Found) error {
	for _, snap := range f.Snapshots {
		_, err := s.update(ctx, func(t *tx) error {
			var old dataset.Snapshot
			if known, err := t.get(snapshotKey(f.Dataset.ID, snap.ID), &old); err != nil || known {
				return err
			}
			var c claim
			if snap.Name != "" {
				if taken, err := t.get(snapnameKey(f.Dataset.ID, snap.Name), &c); err != nil {
					return err
				} else if taken {
					snap.Name = ""
				}
			}
			snap.Dataset = f.Dataset.ID
			return t.putSnapshot(snap)
		})
		if err != nil {
			return err
		}
	}
	return nil
}
