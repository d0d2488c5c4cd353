package housekeeping

import (
	"context"
	"time"

	"github.com/google/uuid"

	"github.com/droverhq/drover/control/api"
	"github.com/droverhq/drover/control/record"
	"github.com/droverhq/drover/dataset"
)

const (
	// maxFirstVerification is the longest time that the first scheduled verification of a volume waits, so that those
	// of many volumes do not begin at once.
	maxFirstVerification = 24 * time.Hour
	// firstVerifyRetry and maxVerifyRetry are how long a failed verification waits before it is tried again. The time
	// doubles with each failure. It is never longer than the time between two verifications.
	firstVerifyRetry = time.Hour
	maxVerifyRetry   = 24 * time.Hour
	// verifyCheck is the time after which a volume without a backup, or with a failed verification, is examined again:
	// a backup or a verification by a user can change what is due.
	verifyCheck = 10 * time.Minute
)

// scheduleVerification plans the next scheduled verification of a dataset that is new or has changed.
func (k *Housekeeper) scheduleVerification(h *Memory, d dataset.Dataset, index uint64) {
	if d.State != dataset.StateReady || !d.Profile.Backup.Verify.Restore {
		delete(h.verifications, d.ID)
		k.refused.Delete(d.ID)
		return
	}
	if plan, ok := h.verifications[d.ID]; !ok || plan.index != index {
		h.verifications[d.ID] = backupPlan{index, h.Now}
	}
}

// requestDueVerifications requests the verifications that are due. If a schedule was missed several times, one
// verification is requested. A node gets the next one only when it has no other: a host runs few at a time, and those
// that a user requests must not wait for all scheduled ones.
func (k *Housekeeper) requestDueVerifications(ctx context.Context, h *Memory) {
	busy := map[uuid.UUID]bool{} // nodes that have a verification
	for id, plan := range h.verifications {
		if plan.check.After(h.Now) || ctx.Err() != nil {
			continue
		}
		next, err := k.requestDueVerification(ctx, id, h.Now, busy)
		if err != nil {
			h.check(ctx, "scheduled verification of a backup of dataset "+id.String(), err)
			next = h.Now.Add(backupCheck)
		}
		if next.IsZero() {
			delete(h.verifications, id)
			k.refused.Delete(id)
			continue
		}
		plan.check = next
		h.verifications[id] = plan
	}
}

// requestDueVerification requests the verification of a dataset's newest backup if it is due and the home is not in
// busy. It returns when to look again; the zero time if the dataset has no scheduled verifications.
func (k *Housekeeper) requestDueVerification(ctx context.Context, id uuid.UUID, now time.Time,
	busy map[uuid.UUID]bool) (again time.Time, err error) {
	t := record.NewTx(ctx, k.Ledger.Store)
	var d dataset.Dataset
	there, err := t.Get(record.DatasetKey(id), &d)
	if err != nil || !there || d.State != dataset.StateReady || !d.Profile.Backup.Verify.Restore {
		return time.Time{}, err
	}
	var v record.Verifications
	if _, err := t.Get(record.VerificationsKey(id), &v); err != nil {
		return time.Time{}, err
	}
	newest, err := record.NewestBackup(t, id)
	if err != nil {
		return time.Time{}, err
	}
	missing, err := lacksRepository(t, newest)
	if err != nil {
		return time.Time{}, err
	}
	k.refused.Delete(id)
	due := verificationDue(d, newest, v, now)
	switch {
	case due.IsZero():
		return now.Add(verifyCheck), nil
	case due.After(now):
		if check := now.Add(verifyCheck); v.Failures > 0 && check.Before(due) {
			due = check
		}
		return due, nil
	case v.Running != uuid.Nil:
		return now.Add(backupCheck), k.settleVerification(ctx, t, d)
	case missing:
		return now.Add(backupCheck), nil // LateBackups names the repository if the verification is late
	}
	err = k.requestVerification(ctx, t, d, newest, busy)
	if err != nil && ctx.Err() == nil {
		k.refused.Store(id, dataset.OneLine(err))
	}
	return now.Add(backupCheck), err
}

// lacksRepository reports whether the repository of a backup is not recorded. A damaged record counts as recorded.
func lacksRepository(t *record.Tx, b record.ScheduledBackup) (bool, error) {
	if b.ID == "" {
		return false, nil
	}
	known, err := t.Peek(record.RepositoryKey(b.Repository), &dataset.Repository{})
	if dataset.KindOf(err) == dataset.ErrCorrupt {
		return false, nil
	}
	return !known, err
}

// settleVerification examines the scheduled verification of a dataset that has not ended. If its node is lost, it
// cancels the operation. If its operation is not recorded any more, it records that the verification has ended.
func (k *Housekeeper) settleVerification(ctx context.Context, t *record.Tx, d dataset.Dataset) error {
	running, err := record.RunningVerification(t, d.ID)
	if err != nil {
		return err
	}
	if running == nil {
		_, err = k.Ledger.Update(ctx, func(t *record.Tx) error { return record.SettleVerification(t, d.ID) })
		return err
	}
	if lost, err := record.IsOnLostNode(t, d, *running); err != nil || !lost {
		return err
	}
	// The agent of the former home removes the temporary dataset when it learns of this.
	_, err = k.requests.CancelOperation(ctx, running.ID.String())
	return err
}

// requestVerification requests the verification of a backup, unless the home of the dataset has another verification.
func (k *Housekeeper) requestVerification(ctx context.Context, t *record.Tx, d dataset.Dataset,
	newest record.ScheduledBackup, busy map[uuid.UUID]bool) error {
	if _, looked := busy[d.Home]; !looked {
		var err error
		if busy[d.Home], err = hasVerification(t, d.Home); err != nil {
			return err
		}
	}
	if busy[d.Home] {
		return nil
	}
	_, err := k.requests.Submit(ctx, api.Request{
		ID: uuid.New(), Kind: dataset.OpVerify, Volume: d.ID.String(), Repository: newest.Repository,
		Backup: newest.ID, Check: d.Profile.Backup.Verify.Check, Scheduled: true,
	})
	if err == nil {
		busy[d.Home] = true
	}
	if dataset.KindOf(err) == dataset.ErrConflict { // a newer backup was made just now
		err = nil
	}
	return err
}

// hasVerification reports whether a node has a verification that has not ended.
func hasVerification(t *record.Tx, node uuid.UUID) (bool, error) {
	open, err := record.OpenWork(t, node)
	for _, op := range open {
		if op.Kind == dataset.OpVerify {
			return true, err
		}
	}
	return false, err
}

// verificationDue returns when the next scheduled verification of a dataset is due: when the interval of the profile
// has passed since the last one, but within maxFirstVerification after the volume got other verifications. After a
// failure, it is due later. It is zero if no scheduled backup of the dataset is known.
func verificationDue(d dataset.Dataset, newest record.ScheduledBackup, v record.Verifications,
	now time.Time) time.Time {
	if newest.ID == "" {
		return time.Time{}
	}
	every, latest := time.Duration(d.Profile.Backup.Verify.Every), now.Add(dataset.MaxClockSkew)
	due, first := now, spread(d.ID, min(every, maxFirstVerification))
	// Ignore a time in the future, as backupDue does. The last verification with such a time does not count.
	if start := ScheduleStart(d); !start.After(latest) {
		due = start.Add(first)
	}
	if !v.After.IsZero() && !v.After.After(latest) {
		due = v.After.Add(every)
	}
	if since := v.Since.Add(first); !v.Since.IsZero() && !v.Since.After(latest) && since.After(due) {
		due = since
	}
	return laterAfterFailure(d.ID, v.Scheduled, due, latest, firstVerifyRetry, min(maxVerifyRetry, every))
}
