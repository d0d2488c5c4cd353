package control

import (
	"context"
	"slices"
	"strings"
	"time"

	"github.com/google/uuid"

	"github.com/droverhq/drover/control/api"
	"github.com/droverhq/drover/control/record"
	"github.com/droverhq/drover/control/store"
	"github.com/droverhq/drover/dataset"
)

// planUndelete brings a dataset back from the trash, under its old name or another. Control does it alone,
// because nothing changes on disk.
func (s *Service) planUndelete(t *tx, req api.Request) (*dataset.Operation, *dataset.Dataset, error) {
	d, err := findDeleted(t, req.Volume, func(d dataset.Dataset) bool { return d.State == dataset.StateTrashed })
	if err != nil {
		return nil, nil, err
	}
	next := d
	if req.Name != "" && req.Name != d.Volume {
		next.Volume, next.Spelling, next.SpelledBy = req.Name, req.Name, uuid.Nil
	}
	if err := dataset.CheckName(next.Volume); err != nil {
		return nil, nil, err
	}
	var c record.Claim
	if ok, err := t.get(record.NameKey(next.Volume), &c); err != nil {
		return nil, nil, err
	} else if ok {
		return nil, nil, dataset.Errorf(dataset.ErrExists,
			"a volume %s exists (drover trash restore %s NAME brings this one back under another name)",
			next.Volume, d.ID.String()[:8])
	}
	next.State, next.Trash = dataset.StateReady, nil
	op := on(next)
	op.Dataset = &next
	return op, nil, nil
}

// settleUndelete writes in the same transaction what planUndelete decided.
func (s *Service) settleUndelete(t *tx, op dataset.Operation) error {
	d := *op.Dataset
	t.del(record.TrashKey(d.ID))
	if err := t.put(record.NameKey(d.Volume), record.Claim{ID: d.ID}); err != nil {
		return err
	}
	t.event("volume.undelete", d, "")
	return t.putDataset(d)
}

// findDeleted finds a dataset that no longer has a name, by a unique prefix of its UUID or by its former name. Unlike
// elsewhere, a name does not take precedence over a prefix, because the request may be to destroy it.
func findDeleted(t *tx, ref string, want func(dataset.Dataset) bool) (dataset.Dataset, error) {
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
			"no such dataset in the trash: %q (drover trash ls shows what there is)", dataset.Clip(ref))
	case 1:
		return found[0].dataset, nil
	}
	return dataset.Dataset{}, severalDeleted(found, ref)
}

// severalDeleted is the error that tells datasets with the same former name apart, the latest deleted first.
func severalDeleted(found []match, ref string) error {
	at := func(m match) (at time.Time) {
		if m.dataset.Trash != nil {
			at = m.dataset.Trash.At
		}
		return at
	}
	slices.SortStableFunc(found, func(x, y match) int { return at(y).Compare(at(x)) })
	var names []string
	for i, m := range found {
		if i == matchesShown {
			names = append(names, "…")
			break
		}
		name := m.String()
		if t := at(m); !t.IsZero() {
			name += " deleted at " + t.UTC().Format("2006-01-02 15:04:05 MST")
		}
		names = append(names, name)
	}
	return dataset.Errorf(dataset.ErrAmbiguous, "%q matches several: %s (say more of the UUID)", dataset.Clip(ref),
		strings.Join(names, ", "))
}

// addTrashed adds the datasets in the trash with a former name.
func addTrashed(t *tx, name string, found []match, want func(dataset.Dataset) bool) ([]match, error) {
	entries, err := t.list(record.TrashPrefix, "", 0)
	if err != nil {
		return nil, err
	}
	for _, e := range entries {
		id, err := record.IDIn(e.Key, record.TrashPrefix)
		if err != nil {
			return nil, err
		}
		var seen, d dataset.Dataset
		if there, err := t.peek(record.DatasetKey(id), &seen); err != nil {
			return nil, err
		} else if !there || seen.Volume != name {
			continue
		}
		there, err := t.get(record.DatasetKey(id), &d)
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

// planPurge decides to destroy a dataset in the trash. A dataset that is being destroyed already can be requested
// again, because the first attempt may have failed.
func (s *Service) planPurge(t *tx, req api.Request) (*dataset.Operation, *dataset.Dataset, error) {
	d, err := findDeleted(t, req.Volume, func(d dataset.Dataset) bool { return d.State != dataset.StateReady })
	if dataset.KindOf(err) == dataset.ErrNotFound {
		if live, verr := t.volume(req.Volume); verr == nil {
			err = dataset.Errorf(dataset.ErrNotFound,
				"volume %s is not in the trash (drover volume rm %s puts it there)", live.Volume, live.Volume)
		}
	}
	if err != nil {
		return nil, nil, err
	}
	if d.Home == uuid.Nil {
		name, err := t.nodeName(d.Copies[0])
		if err == nil {
			err = dataset.Errorf(dataset.ErrPending,
				"dataset %s is destroyed but for its copies: node %s, for one, has not been heard to have "+
					"done so (drover node ls)", d.ID, name)
		}
		return nil, nil, err
	}
	return on(d), nil, nil
}

// commitPurge removes the record of a dataset whose data and snapshots are destroyed. While other nodes have
// copies the record stays, so that they destroy them.
func (s *Service) commitPurge(t *tx, op dataset.Operation) error {
	d, gone, err := condemnedDataset(t, op)
	if err != nil || gone {
		return err
	}
	if d.State != dataset.StatePurging {
		return dataset.Errorf(dataset.ErrConflict, "dataset %s is %s, not to be destroyed", d.ID, d.State)
	}
	d.Request = op.ID
	return clearHome(t, d)
}

// clearHome removes a condemned dataset from its home, and removes its record if no other node has a copy.
func clearHome(t *tx, d dataset.Dataset) error {
	t.touch(d.ID, d.Home)
	t.del(record.HomeKey(d.Home, d.ID))
	if len(d.Copies) == 0 {
		forgetDataset(t, d)
		return nil
	}
	t.del(record.LeaseKey(d.ID))
	d.Home = uuid.Nil
	return t.put(record.DatasetKey(d.ID), d)
}

// condemnedDataset reads the dataset of a purge. gone says that its home has destroyed it already.
func condemnedDataset(t *tx, op dataset.Operation) (d dataset.Dataset, gone bool, err error) {
	d, err = t.dataset(op.DatasetID)
	if dataset.KindOf(err) == dataset.ErrNotFound || err == nil && d.Home == uuid.Nil {
		return d, true, nil
	}
	if err == nil {
		d, err = currentDataset(t, op)
	}
	return d, false, err
}

// snapshotsAtOnce bounds the snapshots that one transaction removes or brings back: up to three keys each, read
// and written, must fit within the store's limit.
const snapshotsAtOnce = (store.MaxOps - 24) / 6

// forgetSnapshots removes the records of a condemned dataset's snapshots, in as many transactions as necessary.
// Idempotent: it continues with what is left.
func (s *Service) forgetSnapshots(ctx context.Context, op dataset.Operation) error {
	for more := true; more; {
		_, err := s.update(ctx, func(t *tx) error {
			more = false
			if rec, _, err := recordedOperation(t, op); err != nil || rec.State.Final() {
				return err
			}
			d, gone, err := condemnedDataset(t, op)
			if err != nil || gone || d.State != dataset.StatePurging {
				return err
			}
			more, err = delSnapshots(t, d)
			return err
		})
		if err != nil {
			return err
		}
	}
	return nil
}

// delSnapshots removes the records of as many snapshots of a dataset as one transaction can hold.
func delSnapshots(t *tx, d dataset.Dataset) (more bool, err error) {
	entries, err := t.list(record.SnapshotPrefix(d.ID), "", snapshotsAtOnce)
	if err != nil {
		return false, err
	}
	for _, e := range entries {
		var snap dataset.Snapshot
		if err := record.Decode(e.Key, e.Value, &snap); err != nil {
			return false, err
		}
		deleteSnapshot(t, snap)
	}
	return len(entries) == snapshotsAtOnce, nil
}
