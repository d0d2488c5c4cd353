package housekeeping

import (
	"context"
	"encoding/binary"
	"slices"
	"time"

	"github.com/google/uuid"

	"github.com/droverhq/drover/control/api"
	"github.com/droverhq/drover/control/record"
	"github.com/droverhq/drover/control/store"
	"github.com/droverhq/drover/dataset"
)

const (
	// maxBackupDelay is the longest time that the scheduled backup of a volume waits after the moment of the schedule,
	// so that the backups of many volumes do not begin at once.
	maxBackupDelay = time.Hour
	// firstBackupRetry and maxBackupRetry are how long a failed backup waits before it is tried again. The time doubles
	// with each failure.
	firstBackupRetry = time.Minute
	maxBackupRetry   = 2 * time.Hour
	// backupCheck is the time after which a running backup is examined again, or a refused request is repeated.
	backupCheck = time.Minute
)

// backupPlan says when the next scheduled backup, or the next scheduled verification, of a dataset may be due. It is
// only a hint: before a backup or a verification is requested, the records are read.
type backupPlan struct {
	index uint64 // of the dataset's record that the plan was made from
	check time.Time
}

// scheduleBackup plans the next scheduled backup of a dataset that is new or has changed.
func (k *Housekeeper) scheduleBackup(h *Memory, d dataset.Dataset, index uint64) {
	if d.State != dataset.StateReady || d.Profile.Backup.To == "" {
		delete(h.backups, d.ID)
		return
	}
	if plan, ok := h.backups[d.ID]; !ok || plan.index != index {
		h.backups[d.ID] = backupPlan{index, h.Now}
	}
}

// requestDueBackups requests the backups that are due. If a schedule was missed several times, one backup is requested.
// While a scheduled backup of a dataset runs, no other is requested.
//
// A volume whose last backup failed is examined each minute. So the records of many volumes are read in one call, and
// those of a volume are read again only if its backup is due.
func (k *Housekeeper) requestDueBackups(ctx context.Context, h *Memory) {
	var due []uuid.UUID
	for id, plan := range h.backups {
		if !plan.check.After(h.Now) {
			due = append(due, id)
		}
	}
	for some := range slices.Chunk(due, store.MaxOps/2) {
		t, keys := record.NewTx(ctx, k.Ledger.Store), make([]string, 0, store.MaxOps)
		for _, id := range some {
			keys = append(keys, record.DatasetKey(id), record.BackupsKey(id))
		}
		// After a damaged value, the records are read one by one, and the others are examined nevertheless.
		if err := t.Prefetch(keys); err != nil && dataset.KindOf(err) != dataset.ErrCorrupt {
			h.check(ctx, "read the records of scheduled backups", err)
			return // the next round tries again
		}
		for _, id := range some {
			due, next, err := k.examineBackups(t, id, h.Now)
			if due != nil {
				next, err = k.requestDueBackup(ctx, id, h.Now)
			}
			if ctx.Err() != nil {
				return
			}
			k.planBackup(h, id, next, err)
		}
	}
}

// planBackup records in h when a dataset's scheduled backup is examined next: at the time next, or after a failure. If
// next is zero, the dataset has no scheduled backups.
func (k *Housekeeper) planBackup(h *Memory, id uuid.UUID, next time.Time, err error) {
	if err != nil {
		h.reportFailure("scheduled backup of dataset "+id.String(), err)
		next = h.Now.Add(backupCheck)
	}
	if next.IsZero() {
		delete(h.backups, id)
		return
	}
	plan := h.backups[id]
	plan.check = next
	h.backups[id] = plan
}

// dueBackup is a scheduled backup that is due, with the records that say so.
type dueBackup struct {
	dataset dataset.Dataset
	backups record.Backups
	at      time.Time
}

// examineBackups reads the records of a dataset's scheduled backups, and returns the backup that is due. If none is,
// examineBackups returns nil, and when to look again; the zero time if the dataset has no scheduled backups.
func (k *Housekeeper) examineBackups(t *record.Tx, id uuid.UUID, now time.Time) (is *dueBackup, again time.Time,
	err error) {
	var d dataset.Dataset
	there, err := t.Get(record.DatasetKey(id), &d)
	if err != nil || !there || d.State != dataset.StateReady || d.Profile.Backup.To == "" {
		return nil, time.Time{}, err
	}
	var b record.Backups
	if _, err := t.Get(record.BackupsKey(id), &b); err != nil {
		return nil, time.Time{}, err
	}
	var to dataset.Repository
	known, err := t.Get(record.RepositoryKey(d.Profile.Backup.To), &to)
	if err != nil && dataset.KindOf(err) != dataset.ErrCorrupt {
		return nil, time.Time{}, err
	}
	missing := !known && err == nil
	due, err := backupDue(d, b, now)
	if (missing || d.BacksUpApart(to)) && err == nil {
		return nil, now.Add(backupCheck), nil // LateBackups reports it, until an operator has decided
	}
	if err != nil {
		return nil, due, err
	}
	if due.After(now) {
		if check := now.Add(backupCheck); b.Failures > 0 && check.Before(due) {
			due = check // a good backup that a user requests clears the failures
		}
		return nil, due, nil
	}
	return &dueBackup{dataset: d, backups: b, at: due}, due, nil
}

// requestDueBackup reads the records of a dataset again, and requests its backup if it is due. It returns when to look
// again; the zero time if the dataset has no scheduled backups.
func (k *Housekeeper) requestDueBackup(ctx context.Context, id uuid.UUID, now time.Time) (again time.Time, err error) {
	t := record.NewTx(ctx, k.Ledger.Store)
	due, again, err := k.examineBackups(t, id, now)
	if due == nil {
		return again, err
	}
	d, b := due.dataset, due.backups
	running, err := record.RunningBackup(t, id)
	if err != nil {
		return time.Time{}, err
	}
	if running != nil {
		if lost, err := record.IsOnLostNode(t, d, *running); err != nil || !lost {
			return now.Add(backupCheck), err
		}
		// The agent of the former home removes its backup when it learns of this.
		_, err = k.requests.CancelOperation(ctx, running.ID.String())
		return now, err // the next round requests another backup
	}
	if b.Running != uuid.Nil {
		_, err = k.Ledger.Update(ctx, func(t *record.Tx) error { return record.SettleBackup(t, id) })
		return now, err // the next round decides with the new records
	}
	_, err = k.requests.Submit(ctx, api.Request{
		// Of several requests, all but one are refused. No number from the records makes the ID: after the store was
		// restored or rebuilt, it would be that of an earlier backup, which the agent then takes for its own remains.
		ID: uuid.New(), Kind: dataset.OpBackup, Volume: id.String(), Repository: d.Profile.Backup.To,
		Scheduled: true,
	})
	if dataset.KindOf(err) == dataset.ErrConflict { // it is being moved
		err = nil
	}
	return now.Add(backupCheck), err
}

// AddBackups adds to a volume the state of its scheduled backups, and the verifications of its backups. The state is
// nil if the profile has no schedule, or the dataset is deleted.
func (k *Housekeeper) AddBackups(t *record.Tx, v *api.Volume) error {
	var made record.Verifications
	if _, err := t.Get(record.VerificationsKey(v.ID), &made); err != nil {
		return err
	}
	state, err := backupState(t, v.Dataset, made, k.Ledger.Clock.Now())
	v.Backups, v.Verified = state, made.Results
	return err
}

func backupState(t *record.Tx, d dataset.Dataset, v record.Verifications, now time.Time) (*api.BackupState, error) {
	if d.State != dataset.StateReady || d.Profile.Backup.To == "" {
		return nil, nil //nolint:nilnil // no schedule is no error
	}
	var b record.Backups
	if _, err := t.Get(record.BackupsKey(d.ID), &b); err != nil {
		return nil, err
	}
	var to dataset.Repository
	if _, err := t.Peek(record.RepositoryKey(d.Profile.Backup.To), &to); err != nil &&
		dataset.KindOf(err) != dataset.ErrCorrupt {
		return nil, err
	}
	next, _ := backupDue(d, b, now) // zero for a schedule that is not valid
	if d.BacksUpApart(to) {
		next = time.Time{}
	}
	state := &api.BackupState{
		Last: b.Last, Next: next, Running: b.Running, Failures: b.Failures, Problem: b.Problem,
	}
	if b.Newest.Repository == d.Profile.Backup.To {
		state.Newest = b.Newest.ID
	}
	if d.Profile.Backup.Verify.Restore {
		state.Verify = &api.VerifyState{
			Last: v.Last, Next: verificationDue(d, b.Newest, v, now), Running: v.Running, Failures: v.Failures,
			Problem: v.Problem,
		}
		of, err := record.DamagedOf(t, d.ID)
		if err != nil && dataset.KindOf(err) != dataset.ErrCorrupt {
			return nil, err
		}
		if len(of) > 0 {
			last := slices.MaxFunc(of, func(a, b record.DamagedBackup) int { return a.Found.Compare(b.Found) })
			state.Verify.Unusable, state.Verify.Problem = last.Backup, last.Problem
		}
	}
	return state, nil
}

// backupDue returns when the next scheduled backup of a dataset is due: at the first moment of the schedule after the
// last backup, with a delay that depends on the dataset. After a failure, it is due later.
func backupDue(d dataset.Dataset, b record.Backups, now time.Time) (time.Time, error) {
	from, latest := time.Time{}, now.Add(dataset.MaxClockSkew)
	for _, at := range []time.Time{ScheduleStart(d), b.After} {
		// Ignore a time in the future: the clock was ahead when it was recorded. If no time is left, a backup is due
		// now.
		if at.After(from) && !at.After(latest) {
			from = at
		}
	}
	due := now
	if !from.IsZero() {
		tick, err := nextTick(d.Profile.Backup.Schedule, from.In(time.Local))
		if err != nil {
			return time.Time{}, err
		}
		after, err := nextTick(d.Profile.Backup.Schedule, tick)
		if err != nil {
			return time.Time{}, err
		}
		due = tick.Add(spread(d.ID, min(after.Sub(tick)/4, maxBackupDelay)))
	}
	return laterAfterFailure(d.ID, b.Scheduled, due, latest, firstBackupRetry, maxBackupRetry), nil
}

// laterAfterFailure returns when what is due at a time is tried again, if the last one has failed. The wait after a
// failure is first, doubles with each failure, and is at most most. A failure after latest is ignored.
func laterAfterFailure(id uuid.UUID, s record.Scheduled, due, latest time.Time, first, most time.Duration) time.Time {
	if s.Failures > 0 && !s.Failed.After(latest) {
		wait := min(first<<min(s.Failures-1, 10), most)
		if retry := s.Failed.Add(wait + spread(id, wait/4)); retry.After(due) {
			return retry
		}
	}
	return due
}

// spread returns a time of less than most, in whole seconds, which is always the same for a dataset.
func spread(id uuid.UUID, most time.Duration) time.Duration {
	if most < time.Second {
		return 0
	}
	return time.Duration(binary.BigEndian.Uint64(id[8:])%uint64(most/time.Second)) * time.Second
}
