package recovery

import (
	"cmp"
	"context"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/google/uuid"

	"github.com/droverhq/drover/control/api"
	"github.com/droverhq/drover/control/membership"
	"github.com/droverhq/drover/control/record"
	"github.com/droverhq/drover/control/reports"
	"github.com/droverhq/drover/dataset"
)

// Rebuild restores the records of the datasets in a node's pools, after the store of a single host was lost or when a
// pool was adopted. Idempotent. In a cluster it fails with dataset.ErrConflict while the store is inconsistent, because
// another node may have a later epoch of a dataset: Recover compares the reports of all nodes.
//
// It changes an existing record in three cases only. In the first case, the node has seen a later change than the store
// has, which shows that the store was restored from a backup. In the second case, the dataset is recorded in the same
// pool, but on another node, which is unreachable. In the third case, the store belongs to a single host and gives the
// node an epoch that the node relinquished: see needsLaterEpoch. If the name of a dataset is taken, the dataset gets
// the name name-UUID8. Rebuild fails with dataset.ErrInvalid for a pool that does not belong to the node, for a dataset
// or snapshot without a UUID, and for too many datasets.
//
// With dryRun nothing is recorded. A pool that is not recorded for the node counts as the node's: the node is about to
// adopt it.
func (rc *Recovery) Rebuild(ctx context.Context, node uuid.UUID, found []api.FoundDataset, dryRun bool) (
	[]api.Rebuilt, error) {
	if err := reports.CheckFound("rebuild of node "+node.String(), found); err != nil {
		return nil, err
	}
	found, err := rc.recordedFirst(ctx, found)
	if err != nil {
		return nil, err
	}
	var out []api.Rebuilt
	names := record.Assumptions{} // in a dry run: the claims of names that it would have written, by key
	for _, f := range found {
		var r api.Rebuilt
		if dryRun {
			r, err = rc.previewOne(ctx, node, f, names)
		} else {
			r, err = rc.rebuildOne(ctx, node, f)
		}
		if err != nil {
			return out, err
		}
		out = append(out, r)
	}
	return out, nil
}

// recordedFirst puts recorded datasets before the others, because correcting a recorded dataset may release a name
// that another dataset has taken since. It puts the newest of the others first, because an outdated record may
// still have a name that now belongs to another dataset.
func (rc *Recovery) recordedFirst(ctx context.Context, found []api.FoundDataset) ([]api.FoundDataset, error) {
	var known, unknown []api.FoundDataset
	for _, f := range found {
		there, err := record.NewTx(ctx, rc.Ledger.Store).Peek(record.DatasetKey(f.Dataset.ID), &dataset.Dataset{})
		switch {
		case err != nil:
			return nil, err
		case there:
			known = append(known, f)
		default:
			unknown = append(unknown, f)
		}
	}
	// The age of a dataset says less than the index of its record: a volume that was renamed has a name that is newer
	// than the dataset.
	slices.SortStableFunc(unknown, func(x, y api.FoundDataset) int {
		return cmp.Or(cmp.Compare(writtenAt(y), writtenAt(x)), y.Dataset.Created.Compare(x.Dataset.Created))
	})
	return append(known, unknown...), nil
}

// writtenAt returns the index at which the store last wrote a record, or 0 if it is not known. The node may know it
// only from the record beside the data, for instance if the database of its agent was lost or restored with the store.
func writtenAt(f api.FoundDataset) uint64 { return max(f.Index, f.Dataset.Written) }

func (rc *Recovery) rebuildOne(ctx context.Context, node uuid.UUID, f api.FoundDataset) (r api.Rebuilt, err error) {
	if f.Dataset.ID == uuid.Nil {
		return r, dataset.Errorf(dataset.ErrInvalid, "rebuild: a dataset without a UUID in pool %s", f.Pool)
	}
	elsewhere := false
	_, err = rc.Ledger.Update(ctx, func(t *record.Tx) error {
		var pool dataset.Pool
		if ok, err := t.Get(record.PoolKey(f.Pool), &pool); err != nil {
			return err
		} else if !ok || pool.Node != node {
			return dataset.Errorf(dataset.ErrInvalid, "rebuild: pool %s does not belong to node %s", f.Pool, node)
		}
		r, elsewhere, err = rc.restoreDataset(t, node, f)
		return err
	})
	if err != nil || elsewhere {
		return r, err
	}
	return r, rc.rebuildSnapshots(ctx, rc.Ledger.Update, f)
}

// previewOne decides as rebuildOne does, and records nothing. names has the claims of names that the datasets before
// this one would have written; previewOne adds those of this dataset.
func (rc *Recovery) previewOne(ctx context.Context, node uuid.UUID, f api.FoundDataset, names record.Assumptions) (
	r api.Rebuilt, err error) {
	if f.Dataset.ID == uuid.Nil {
		return r, dataset.Errorf(dataset.ErrInvalid, "rebuild: a dataset without a UUID in pool %s", f.Pool)
	}
	var claims record.Assumptions
	err = rc.Ledger.Preview(ctx, func(t *record.Tx) error {
		record.Assume(t, names)
		r, _, err = rc.restoreDataset(t, node, f)
		claims = record.Written(t, record.NamesPrefix)
		return err
	})
	maps.Copy(names, claims)
	return r, err
}

// restoreDataset restores the record of a dataset that a node has found in one of its pools. elsewhere is true if the
// dataset is recorded in another pool or on another node, so that the record stays.
func (rc *Recovery) restoreDataset(t *record.Tx, node uuid.UUID, f api.FoundDataset) (r api.Rebuilt, elsewhere bool,
	err error) {
	if rc.Ledger.Shared {
		if err := t.Halted(); err != nil {
			return r, false, err
		}
	}
	d := f.Dataset
	r = api.Rebuilt{Dataset: d.ID, Volume: d.Volume, Action: "known"}
	var old dataset.Dataset
	if known, err := t.Get(record.DatasetKey(d.ID), &old); err != nil {
		return r, false, err
	} else if known {
		r.Volume = old.Volume
		if old.Home != node && old.Pool == f.Pool {
			lost, err := rc.isUnreachable(t, old.Home)
			if err != nil {
				return r, false, err
			}
			if lost {
				err = rehome(t, old, node, &r)
				return r, false, err
			}
		}
		if elsewhere = old.Home != node || old.Pool != f.Pool; elsewhere {
			r.Note = "the store records it in pool " + old.Pool.String() + " of node " + old.Home.String() +
				": this copy is not changed"
			return r, true, nil
		}
		if !isNewer(f, old, t.Index(record.DatasetKey(d.ID))) {
			returned, err := rc.needsLaterEpoch(t, old, f)
			switch {
			case err != nil:
			case returned:
				err = rc.renewEpoch(t, old, f, &r)
			case old.State == dataset.StateTrashed:
				old.Trash = rc.restartTrash(old)
				err = cmp.Or(rc.members.Uptime.PutInTrash(t, old.ID, *old.Trash), t.PutDataset(old))
			}
			return r, false, err
		}
		r.Note = "the store had an older state"
		if err := releaseState(t, old); err != nil {
			return r, false, err
		}
	}
	d.Profile = rc.vetted.WithKnownSettings(d.Profile, old.Profile)
	d.Home, d.Pool, d.Epoch = node, f.Pool, laterEpoch(f, old.Epoch)
	// use these values of the record in the store, because those beside the data may be outdated
	d.Move, d.TakenOver, d.Copies, d.Written = uuid.Nil, nil, old.Copies, 0
	d.SupersededCopies, d.SharedMounts = old.SupersededCopies, old.SharedMounts
	record.RemoveSharedMount(t, &d, node)
	if err := rc.restoreName(t, &d, &r); err != nil {
		return r, false, err
	}
	t.Event(api.EventVolumeRebuild, d, r.Action)
	return r, false, record.AddDataset(t, d, uuid.Nil)
}

// isNewer reports whether a found dataset is newer than its record in the store. index is the index of that record. The
// index beside the data counts only within an epoch, because each rebuild of a store starts an epoch.
func isNewer(f api.FoundDataset, old dataset.Dataset, index uint64) bool {
	d := f.Dataset
	return f.Index > index || d.Epoch > old.Epoch || d.Epoch == old.Epoch && d.Written > index
}

// restartTrash returns the entry of a dataset in the trash whose time restarts now, because nobody could restore the
// dataset while the store was lost or inconsistent.
func (rc *Recovery) restartTrash(d dataset.Dataset) *dataset.Trash {
	trash := dataset.Trash{At: rc.Ledger.Clock.Now()}
	if old := d.Trash; old != nil && d.State == dataset.StateTrashed && !old.Expires.IsZero() {
		trash.Expires = trash.At.Add(max(old.Expires.Sub(old.At), time.Hour))
	}
	return &trash
}

// isUnreachable reports whether a node is unreachable. If services share the store, it reads the session of the node,
// and the decision depends on that session.
func (rc *Recovery) isUnreachable(t *record.Tx, node uuid.UUID) (bool, error) {
	if !rc.Ledger.Shared {
		return !rc.Reports.Heartbeat(node).Heard, nil
	}
	_, alive, err := membership.LivingSession(t, node)
	return !alive, err
}

// rehome gives a dataset, with its pool, to another node. The previous node is unreachable: see isUnreachable. By
// adopting the pool on another node, the operator has confirmed that the previous node no longer uses it.
func rehome(t *record.Tx, d dataset.Dataset, node uuid.UUID, r *api.Rebuilt) error {
	r.Action, r.Note = "restored", "its home was node "+d.Home.String()
	switch d.State {
	case dataset.StateTrashed:
		r.Action = "trashed"
	case dataset.StatePurging:
		r.Action = "known"
	}
	t.Delete(record.HomeKey(d.Home, d.ID))
	d.Home, d.Epoch, d.TakenOver = node, d.Epoch+1, nil
	t.Event(api.EventVolumeRebuild, d, r.Action)
	return record.AddDataset(t, d, uuid.Nil)
}

// releaseState removes the keys that depend on the state of a dataset: the claims of its name and aliases, or its entry
// in the trash.
func releaseState(t *record.Tx, d dataset.Dataset) error {
	t.Delete(record.TrashKey(d.ID))
	return releaseClaims(t, d.ID, d.Names())
}

// releaseClaims removes the claims of a dataset on names. It ignores a name that another dataset has claimed.
func releaseClaims(t *record.Tx, id uuid.UUID, names []string) error {
	for _, name := range names {
		var c record.Claim
		if dataset.CheckName(name) != nil {
			continue
		}
		if taken, err := t.Get(record.NameKey(name), &c); err != nil {
			return err
		} else if taken && c.ID == id {
			t.Delete(record.NameKey(name))
		}
	}
	return nil
}

// restoreAliases claims the aliases of a dataset again, after its name. It drops an alias that another volume has
// taken, or that is no valid name.
func restoreAliases(t *record.Tx, d *dataset.Dataset, r *api.Rebuilt) error {
	var kept []string
	for _, name := range d.Aliases {
		if dataset.CheckName(name) != nil || name == d.Volume || slices.Contains(kept, name) {
			continue
		}
		var c record.Claim
		if taken, err := t.Get(record.NameKey(name), &c); err != nil {
			return err
		} else if taken {
			r.Note = strings.TrimPrefix(r.Note+"; the alias "+name+" is dataset "+c.ID.String()+"'s", "; ")
			continue
		}
		if err := t.Put(record.NameKey(name), record.Claim{ID: d.ID}); err != nil {
			return err
		}
		kept = append(kept, name)
	}
	d.Aliases = kept
	return nil
}

// restoreName gives a dataset its name again, or puts it in the trash again, where its time restarts.
//
// A dataset that was condemned stays condemned: its home destroys it.
func (rc *Recovery) restoreName(t *record.Tx, d *dataset.Dataset, r *api.Rebuilt) error {
	if d.State == dataset.StatePurging { // its data still exists, because its pool was offline when it was purged
		d.Aliases = nil
		if d.Trash == nil {
			d.Trash = &dataset.Trash{At: rc.Ledger.Clock.Now()}
		}
		r.Action, r.Note = "purging", "it was purged: its data is destroyed"
		if err := record.CondemnCopies(t, *d); err != nil {
			return err
		}
		return record.PutPending(t, *d)
	}
	if d.State != dataset.StateReady || dataset.CheckName(d.Volume) != nil {
		d.Trash = rc.restartTrash(*d)
		d.State, r.Action = dataset.StateTrashed, "trashed"
		d.Aliases = nil
		return rc.members.Uptime.PutInTrash(t, d.ID, *d.Trash)
	}
	name := d.Volume
	r.Action, d.Trash = "restored", nil
	// Append as many digits of the UUID as are necessary to make the name unique.
	for _, digits := range []int{0, 8, 13, 18, 23, 36} {
		if digits > 0 {
			suffix := "-" + d.ID.String()[:digits]
			d.Volume = name[:min(len(name), 128-len(suffix))] + suffix
		}
		var c record.Claim
		taken, err := t.Get(record.NameKey(d.Volume), &c)
		if err != nil {
			return err
		}
		if !taken {
			break
		}
		if digits == 0 {
			r.Action, r.Note = "renamed", "the name "+name+" is dataset "+c.ID.String()+"'s"
		}
		if digits == 36 {
			return dataset.Errorf(dataset.ErrExists, "rebuild: dataset %s has no free name: even %s is taken", d.ID,
				d.Volume)
		}
	}
	if d.Volume != name {
		d.RequestedAs, d.RequestedBy, r.Volume = d.Volume, uuid.Nil, d.Volume
	}
	if err := t.Put(record.NameKey(d.Volume), record.Claim{ID: d.ID}); err != nil {
		return err
	}
	return restoreAliases(t, d, r)
}

// rebuildSnapshots restores records of snapshots, in several calls of update, because there can be more than fit in one
// transaction.
func (rc *Recovery) rebuildSnapshots(ctx context.Context,
	update func(context.Context, func(*record.Tx) error) (uint64, error), f api.FoundDataset) error {
	for rest := f.Snapshots; len(rest) > 0; {
		some := rest[:min(len(rest), record.SnapshotsAtOnce)]
		rest = rest[len(some):]
		if _, err := update(ctx, func(t *record.Tx) error {
			return rc.recordSnapshots(t, f.Dataset.ID, some)
		}); err != nil {
			return err
		}
	}
	return nil
}

// recordSnapshots records the snapshots of a dataset that have no record yet.
func (rc *Recovery) recordSnapshots(t *record.Tx, ds uuid.UUID, snaps []dataset.Snapshot) error {
	d, err := t.Dataset(ds)
	if err != nil || d.State == dataset.StatePurging {
		return err
	}
	news := false
	for _, snap := range snaps {
		if snap.ID == uuid.Nil || snap.ID == ds {
			return dataset.Errorf(dataset.ErrInvalid, "rebuild: a snapshot of dataset %s has no UUID", ds)
		}
		known, err := t.Get(record.SnapshotKey(ds, snap.ID), &dataset.Snapshot{})
		if err != nil {
			return err
		}
		if known {
			continue
		}
		if kind := dataset.KindOf(record.CheckSnapshotName(t, d, snap.Name)); kind == dataset.ErrExists ||
			kind == dataset.ErrInvalid {
			snap.Name = ""
		} else if kind != nil {
			return record.CheckSnapshotName(t, d, snap.Name)
		}
		snap.Dataset, snap.Profile, news = ds, rc.vetted.WithKnownSettings(snap.Profile, d.Profile), true
		if err := record.PutSnapshot(t, snap); err != nil {
			return err
		}
	}
	if !news {
		return nil
	}
	return renewRequest(t, ds)
}
