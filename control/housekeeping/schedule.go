package housekeeping

import (
	"cmp"
	"context"
	"slices"
	"time"

	"github.com/adhocore/gronx"
	"github.com/google/uuid"

	"github.com/droverhq/drover/control/api"
	"github.com/droverhq/drover/control/record"
	"github.com/droverhq/drover/control/view"
	"github.com/droverhq/drover/dataset"
)

// duePlan says when the next scheduled snapshot of a dataset is due.
type duePlan struct {
	index    uint64 // of the record that the plan was made from
	home     uuid.UUID
	schedule string
	due      time.Time // zero if the schedule is not valid: then no snapshot is due
}

// scheduleDataset examines a dataset that is new or has changed. It computes when the next scheduled snapshot is due,
// and removes the snapshots that retention no longer keeps. A dataset with an unchanged index is not examined, because
// its record is written whenever a snapshot is added or removed.
func (k *Housekeeper) scheduleDataset(ctx context.Context, h *Memory, d dataset.Dataset, index uint64) error {
	expr := d.Profile.Snapshots.Schedule
	if d.State != dataset.StateReady || expr == "" {
		delete(h.Plans, d.ID)
		k.schedules.Delete(d.ID)
		return nil
	}
	if h.Plans[d.ID].index == index {
		return nil
	}
	scheduled, err := k.prune(ctx, d)
	if dataset.KindOf(err) == dataset.ErrUnavailable || ctx.Err() != nil {
		return err
	}
	last := newest(scheduled, d.Created)
	from := newest(scheduled, ScheduleStart(d))
	next, _ := nextTick(expr, from.In(time.Local)) // zero for a schedule that is not valid, which is reported below
	k.schedules.Store(d.ID, plannedSnapshot{d.Volume, last, next})
	plan, ok := h.Plans[d.ID]
	if !ok || plan.schedule != expr {
		var terr error
		plan.schedule = expr
		if from.After(h.Now) { // taken while the clock was ahead
			from = h.Now
		}
		plan.due, terr = nextTick(expr, from.In(time.Local))
		err = cmp.Or(err, terr)
	}
	plan.home = d.Home
	if err == nil {
		plan.index = index
	}
	h.Plans[d.ID] = plan
	return err
}

// ScheduleStart returns since when the schedule of a dataset's profile applies. No scheduled snapshot was due before.
func ScheduleStart(d dataset.Dataset) time.Time {
	if d.ScheduleSince.After(d.Created) {
		return d.ScheduleSince
	}
	return d.Created
}

// NextSnapshot returns when the next scheduled snapshot of a dataset is due. A time in the past means that the snapshot
// is overdue. The time is zero if the profile has no valid schedule, or the dataset is deleted.
func (k *Housekeeper) NextSnapshot(t *record.Tx, d dataset.Dataset) (time.Time, error) {
	expr := d.Profile.Snapshots.Schedule
	if d.State != dataset.StateReady || expr == "" {
		return time.Time{}, nil
	}
	scheduled, err := scheduledSnapshots(t, d)
	if err != nil {
		return time.Time{}, err
	}
	from := newest(scheduled, ScheduleStart(d))
	if now := k.Ledger.Clock.Now(); from.After(now) { // taken while the clock was ahead
		from = now
	}
	next, _ := nextTick(expr, from.In(time.Local)) // zero for a schedule that is not valid
	return next, nil
}

// scheduledSnapshots returns the snapshots of a dataset that were taken on schedule.
func scheduledSnapshots(t *record.Tx, d dataset.Dataset) ([]dataset.Snapshot, error) {
	list, err := record.ListAll[dataset.Snapshot](t, record.SnapshotPrefix(d.ID))
	return slices.DeleteFunc(list, func(s dataset.Snapshot) bool { return s.Kind != dataset.SnapshotScheduled }), err
}

// newest returns when the newest of some snapshots was taken, or least if that is later.
func newest(list []dataset.Snapshot, least time.Time) time.Time {
	for _, s := range list {
		if s.Created.After(least) {
			least = s.Created
		}
	}
	return least
}

// prune requests the removal of the snapshots that retention does not keep. It returns the scheduled snapshots.
func (k *Housekeeper) prune(ctx context.Context, d dataset.Dataset) ([]dataset.Snapshot, error) {
	scheduled, err := scheduledSnapshots(record.NewTx(ctx, k.Ledger.Store), d)
	if err != nil {
		return nil, err
	}
	for _, snap := range expired(scheduled, d.Profile.Snapshots.Keep, time.Local) {
		_, err := k.requests.Submit(ctx, api.Request{
			// the removal of a snapshot is requested once, however often the snapshot is found
			ID:   uuid.NewSHA1(snap.ID, []byte("prune")),
			Kind: dataset.OpSnapshotDelete, Volume: d.ID.String(), Snapshot: snap.ID.String(),
		})
		if err != nil && dataset.KindOf(err) != dataset.ErrNotFound {
			return scheduled, err
		}
	}
	return scheduled, nil
}

// requestDueSnapshots requests the snapshots that are due. If a schedule was missed several times, one snapshot is
// requested. No snapshot is requested of a dataset that has a requested snapshot which was not taken yet.
func (k *Housekeeper) requestDueSnapshots(ctx context.Context, h *Memory, now time.Time) {
	waiting := map[uuid.UUID]map[uuid.UUID]bool{} // by node, then by dataset
	for id, plan := range h.Plans {
		if plan.due.IsZero() || plan.due.After(now) || ctx.Err() != nil {
			continue
		}
		if err := k.requestSnapshot(ctx, id, plan, waiting); err != nil {
			h.check(ctx, "scheduled snapshot of dataset "+id.String(), err)
			continue // still due: the next round tries again
		}
		next, err := nextTick(plan.schedule, now.In(time.Local))
		if err != nil {
			h.reportFailure("schedule of dataset "+id.String(), err)
		}
		plan.due = next
		h.Plans[id] = plan
	}
}

func (k *Housekeeper) requestSnapshot(ctx context.Context, id uuid.UUID, plan duePlan,
	waiting map[uuid.UUID]map[uuid.UUID]bool) error {
	pending, ok := waiting[plan.home]
	if !ok {
		var err error
		if pending, err = k.scheduledWork(ctx, plan.home); err != nil {
			return err
		}
		waiting[plan.home] = pending
	}
	if pending[id] {
		return nil
	}
	_, err := k.requests.Submit(ctx, api.Request{
		// all services on one store request the same snapshot
		ID:   uuid.NewSHA1(id, []byte("snapshot "+plan.due.UTC().Format(time.RFC3339))),
		Kind: dataset.OpSnapshot, Volume: id.String(), Scheduled: true,
	})
	if dataset.KindOf(err) == dataset.ErrNotFound {
		return nil // deleted meanwhile
	}
	return err
}

// scheduledWork returns the datasets of a node that have a recorded scheduled snapshot which was not taken yet.
func (k *Housekeeper) scheduledWork(ctx context.Context, node uuid.UUID) (map[uuid.UUID]bool, error) {
	open, err := record.OpenWork(record.NewTx(ctx, k.Ledger.Store), node)
	pending := map[uuid.UUID]bool{}
	for _, op := range open {
		if op.Kind == dataset.OpSnapshot && op.Snapshot != nil && op.Snapshot.Kind == dataset.SnapshotScheduled {
			pending[op.DatasetID] = true
		}
	}
	return pending, err
}

// nextTick returns the first moment after t that a cron expression names, in the location of t. If the moment does not
// exist because clocks are set forward, it returns the moment right after the gap. When clocks are set back, a schedule
// with several moments a day also runs in the hour that occurs twice. If the expression is not valid, nextTick returns
// dataset.ErrInvalid and a zero time.
func nextTick(expr string, t time.Time) (time.Time, error) {
	next, err := gronx.NextTickAfter(expr, t, false)
	if err != nil {
		return time.Time{}, dataset.Errorf(dataset.ErrInvalid, "schedule %q: %w", dataset.Clip(expr), err)
	}
	// Compute in UTC, where clocks are never set. If the result does not exist in the location of t, time.Date moves it
	// by the gap.
	if wall, err := gronx.NextTickAfter(expr, sameWallTime(t, time.UTC), false); err == nil {
		if wall = sameWallTime(wall, t.Location()); wall.After(t) && wall.Before(next) {
			next = wall
		}
	}
	// Compute in a zone of constant offset: gronx skips the second of two equal hours.
	name, offset := t.Zone()
	if same, err := gronx.NextTickAfter(expr, t.In(time.FixedZone(name, offset)), false); err == nil {
		same = same.In(t.Location())
		if due, err := gronx.New().IsDue(expr, same); err == nil && due && same.Before(next) {
			next = same
		}
	}
	return next, nil
}

// sameWallTime returns the moment with the same date and clock time as t, but in loc.
func sameWallTime(t time.Time, loc *time.Location) time.Time {
	return time.Date(t.Year(), t.Month(), t.Day(), t.Hour(), t.Minute(), t.Second(), t.Nanosecond(), loc)
}

// Schedule is the state of the scheduled snapshots of a volume.
type Schedule struct {
	Volume string
	// Age is the time since the newest scheduled snapshot, or since the volume was created if it has none.
	Age time.Duration
	// Overdue is the time since the next scheduled snapshot became due. It is 0 if the snapshot is not due yet.
	Overdue time.Duration
}

// plannedSnapshot is when the last scheduled snapshot of a volume was taken, and when the next one is due.
type plannedSnapshot struct {
	volume     string
	last, next time.Time // next is zero if the schedule is not valid
}

// Schedules returns the state of the volumes whose profile has a schedule, by name. It is empty while another control
// replica does the background work.
func (k *Housekeeper) Schedules() []Schedule {
	now := k.Ledger.Clock.Now()
	out := []Schedule{}
	for _, planned := range k.schedules.Range {
		is := planned.(plannedSnapshot)
		s := Schedule{Volume: is.volume, Age: max(0, now.Sub(is.last))}
		if !is.next.IsZero() {
			s.Overdue = max(0, now.Sub(is.next))
		}
		out = append(out, s)
	}
	slices.SortFunc(out, func(a, b Schedule) int { return cmp.Compare(a.Volume, b.Volume) })
	return out
}

// expired returns the snapshots that the retention policy does not retain, newest first. keep is the policy: see
// dataset.Keep.Retained. expired is a pure function.
func expired(snaps []dataset.Snapshot, keep dataset.Keep, loc *time.Location) []dataset.Snapshot {
	newest := slices.Clone(snaps)
	slices.SortFunc(newest, func(a, b dataset.Snapshot) int { // not only by time: the clocks of two homes differ
		return cmp.Or(b.At().Compare(a.At()), view.Older(b, a))
	})
	taken := make([]time.Time, len(newest))
	for i, s := range newest {
		taken[i] = s.Created
	}
	kept := map[uuid.UUID]bool{}
	for i, is := range keep.Retained(taken, loc) {
		kept[newest[i].ID] = is
	}
	return slices.DeleteFunc(newest, func(s dataset.Snapshot) bool { return kept[s.ID] })
}
