package control

import (
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/adhocore/gronx"
	"github.com/google/uuid"

	"github.com/droverhq/drover/control/api"
	"github.com/droverhq/drover/dataset"
)

// scheduler remembers, for datasets with a schedule, when the next scheduled
// snapshot is due, so that a round reads nothing for those that are not.
type scheduler struct {
	plans map[uuid.UUID]duePlan
}

type duePlan struct {
	schedule string
	due      time.Time
}

func newScheduler() *scheduler { return &scheduler{plans: map[uuid.UUID]duePlan{}} }

// schedule asks for the snapshots that are due. A schedule that was missed
// several times is caught up once: what counts is the newest scheduled snapshot.
func (s *Service) schedule(ctx context.Context, sc *scheduler, now time.Time) error {
	alive := map[uuid.UUID]bool{}
	after := ""
	for {
		entries, err := s.store.List(ctx, "datasets/", after, pageMost)
		if err != nil {
			return unavailable(err)
		}
		for _, e := range entries {
			var d dataset.Dataset
			if err := decode(e.Key, e.Value, &d); err != nil {
				return err
			}
			after = e.Key
			if d.State != dataset.StateReady || d.Profile.Snapshots.Schedule == "" {
				continue
			}
			alive[d.ID] = true
			if err := s.scheduleOne(ctx, sc, d, now); err != nil {
				return err
			}
		}
		if len(entries) < pageMost {
			break
		}
	}
	for id := range sc.plans {
		if !alive[id] {
			delete(sc.plans, id)
		}
	}
	return nil
}

func (s *Service) scheduleOne(ctx context.Context, sc *scheduler, d dataset.Dataset, now time.Time) error {
	expr := d.Profile.Snapshots.Schedule
	plan, ok := sc.plans[d.ID]
	if !ok || plan.schedule != expr {
		last, err := s.pruneScheduled(ctx, d)
		if err != nil {
			return err
		}
		plan.schedule = expr
		if plan.due, err = nextTick(expr, last); err != nil {
			return err
		}
		sc.plans[d.ID] = plan
	}
	if plan.due.After(now) {
		return nil
	}
	var err error
	if plan.due, err = nextTick(expr, now); err != nil {
		return err
	}
	sc.plans[d.ID] = plan
	if _, err := s.Submit(ctx, api.Request{Kind: dataset.OpSnapshot, Volume: d.Volume, Scheduled: true}); err != nil {
		return fmt.Errorf("volume %s: %w", d.Volume, err)
	}
	_, err = s.pruneScheduled(ctx, d)
	return err
}

// nextTick is the first moment after t that a cron expression names, in local
// time.
func nextTick(expr string, t time.Time) (time.Time, error) {
	next, err := gronx.NextTickAfter(expr, t.In(time.Local), false)
	if err != nil {
		return next, dataset.Errorf(dataset.ErrInvalid, "schedule %q: %w", expr, err)
	}
	return next, nil
}

// pruneScheduled asks for the removal of what retention does not keep and
// returns when the newest scheduled snapshot, or else the dataset, was made.
func (s *Service) pruneScheduled(ctx context.Context, d dataset.Dataset) (time.Time, error) {
	list, err := listAll[dataset.Snapshot](newTx(ctx, s.store), snapshotPrefix(d.ID))
	if err != nil {
		return time.Time{}, err
	}
	last := d.Created
	var scheduled []dataset.Snapshot
	for _, snap := range list {
		if snap.Kind != dataset.SnapshotScheduled {
			continue
		}
		scheduled = append(scheduled, snap)
		if snap.Created.After(last) {
			last = snap.Created
		}
	}
	for _, snap := range expired(scheduled, d.Profile.Snapshots.Keep) {
		_, err := s.Submit(ctx, api.Request{
			// The same snapshot is asked for once, however often it is found.
			ID:   uuid.NewSHA1(snap.ID, []byte("prune")),
			Kind: dataset.OpSnapshotDelete, Volume: d.ID.String(), Snapshot: snap.ID.String(),
		})
		if err != nil && dataset.KindOf(err) != dataset.ErrNotFound {
			return last, err
		}
	}
	return last, nil
}

// expired returns the snapshots that keep does not keep: each rule keeps the
// newest snapshot of each of its latest periods that have one. Pure.
func expired(snaps []dataset.Snapshot, keep dataset.Keep) []dataset.Snapshot {
	if keep == (dataset.Keep{}) {
		return nil
	}
	newest := slices.Clone(snaps)
	slices.SortFunc(newest, func(a, b dataset.Snapshot) int { return b.Created.Compare(a.Created) })
	kept := map[uuid.UUID]bool{}
	for _, rule := range []struct {
		n      int
		period func(time.Time) string
	}{
		{keep.Last, func(t time.Time) string { return t.Format(time.RFC3339Nano) }},
		{keep.Hourly, func(t time.Time) string { return t.Format("2006-01-02T15") }},
		{keep.Daily, func(t time.Time) string { return t.Format("2006-01-02") }},
		{keep.Weekly, func(t time.Time) string { y, w := t.ISOWeek(); return fmt.Sprint(y, "-", w) }},
		{keep.Monthly, func(t time.Time) string { return t.Format("2006-01") }},
	} {
		seen := map[string]bool{}
		for _, snap := range newest {
			p := rule.period(snap.Created.In(time.Local))
			if len(seen) == rule.n || seen[p] {
				continue
			}
			seen[p] = true
			kept[snap.ID] = true
		}
	}
	var out []dataset.Snapshot
	for _, snap := range newest {
		if !kept[snap.ID] {
			out = append(out, snap)
		}
	}
	return out
}
