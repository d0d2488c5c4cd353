package record

import (
	"slices"
	"time"

	"github.com/google/uuid"

	"github.com/droverhq/drover/dataset"
)

// maxResults is the maximum length of Verifications.Results. The oldest entries are dropped.
const maxResults = 100

// RunningVerification returns the operation of the scheduled verification of a dataset that has not ended; nil if there
// is none.
func RunningVerification(t *Tx, id uuid.UUID) (*dataset.Operation, error) {
	var v Verifications
	if _, err := t.Get(VerificationsKey(id), &v); err != nil {
		return nil, err
	}
	return v.running(t)
}

// ChangeVerifications records that a dataset gets a profile whose scheduled verifications differ from those of the
// profile before, so that those that would have been due before now do not count as late. It does nothing if the
// schedule stays the same, or the new profile has none. The caller writes the record of the dataset.
func ChangeVerifications(t *Tx, before, after dataset.Dataset, now time.Time) error {
	from, to := before.Profile.Backup.Verify, after.Profile.Backup.Verify
	if !to.Restore || from.Restore && from.Every == to.Every {
		return nil
	}
	var v Verifications
	_, err := t.Get(VerificationsKey(after.ID), &v)
	if dataset.KindOf(err) == dataset.ErrCorrupt {
		return nil // the background work reports it, and the profile can be changed nevertheless
	}
	if err != nil {
		return err
	}
	v.Dataset, v.Since = after.ID, now
	return t.Put(VerificationsKey(after.ID), v)
}

// BeginVerification records that a scheduled verification was requested.
func BeginVerification(t *Tx, op dataset.Operation) error {
	var v Verifications
	if _, err := t.Get(VerificationsKey(op.BackupOf), &v); err != nil {
		return err
	}
	v.Dataset, v.Running = op.BackupOf, op.ID
	return t.Put(VerificationsKey(op.BackupOf), v)
}

// SettleVerification forgets the scheduled verification of a dataset whose operation is not recorded any more, because
// the store was restored from an older backup. It counts as one attempt without a result. Idempotent.
func SettleVerification(t *Tx, id uuid.UUID) error {
	var v Verifications
	if _, err := t.Get(VerificationsKey(id), &v); err != nil || v.Running == uuid.Nil {
		return err
	}
	if running, err := v.running(t); err != nil || running != nil {
		return err
	}
	v.Running = uuid.Nil
	v.Attempts++
	return t.Put(VerificationsKey(id), v)
}

// FoundUnusable reports whether a verification has ended because the backup is damaged or absent, or because the check
// program found the restored volume not usable. Any other failure says nothing about the backup.
func FoundUnusable(op dataset.Operation) bool {
	if op.State != dataset.OpFailed {
		return false
	}
	kind := dataset.KindOf(op.Problem.Err())
	return kind == dataset.ErrCorrupt || kind == dataset.ErrNotFound
}

// EndDamage ends the warning about a damaged backup of a dataset, because a later backup of it is good. Idempotent.
func EndDamage(t *Tx, id uuid.UUID) error {
	there, err := t.Get(DamagedKey(id), &DamagedBackup{})
	if there || dataset.KindOf(err) == dataset.ErrCorrupt {
		t.Delete(DamagedKey(id))
		return nil
	}
	return err
}

// noteDamage records that a verification found a backup of a dataset unusable, or ends the warning about one if the
// verification shows that this backup, or the newest scheduled one, is good.
func noteDamage(t *Tx, d dataset.Dataset, op dataset.Operation, isNewest bool) error {
	if FoundUnusable(op) {
		return t.Put(DamagedKey(d.ID), DamagedBackup{
			Dataset: d.ID, Repository: op.Repository, Backup: op.Backup, Found: op.Ended, Problem: op.Problem.Message,
		})
	}
	var damaged DamagedBackup
	there, err := t.Get(DamagedKey(d.ID), &damaged)
	if !there || err != nil || !isNewest && damaged.Backup != op.Backup {
		return err
	}
	return EndDamage(t, d.ID)
}

// EndVerification records how a verification ended. The transaction also writes its operation.
//
// A verification that a user has requested also counts for the schedule, if it shows that the newest scheduled backup
// is good, with the check program of the profile. So it ends the warnings about the backup.
func EndVerification(t *Tx, op dataset.Operation) error {
	if op.BackupOf == uuid.Nil {
		return nil
	}
	var d dataset.Dataset
	if there, err := t.Get(DatasetKey(op.BackupOf), &d); err != nil || !there {
		return err
	}
	var v Verifications
	if _, err := t.Get(VerificationsKey(d.ID), &v); err != nil {
		return err
	}
	v.Dataset = d.ID
	good, unusable := op.State == dataset.OpDone, FoundUnusable(op)
	if good || unusable {
		v.addResult(dataset.VerifiedBackup{
			Repository: op.Repository, Backup: op.Backup, At: op.Ended, Check: op.Check, Failed: unusable,
		})
	}
	if op.Scheduled {
		if v.Running != op.ID {
			return nil
		}
		before := v.Problem
		if err := v.end(t, d, op); err != nil {
			return err
		}
		switch {
		case good:
			v.Unusable = ""
			if err := EndDamage(t, d.ID); err != nil {
				return err
			}
		case unusable:
			v.Unusable = op.Backup
		case v.Unusable != "": // a failure that says nothing about the backup does not end the warning
			v.Problem = before
		}
		return t.Put(VerificationsKey(d.ID), v)
	}
	if !good && !unusable {
		return nil // nothing is known about the backup
	}
	counts, err := countsAsScheduled(t, d, op)
	if err != nil {
		return err
	}
	if good && counts {
		v.succeed(op.Created)
		v.Unusable = ""
	}
	if err := noteDamage(t, d, op, counts); err != nil {
		return err
	}
	return t.Put(VerificationsKey(d.ID), v)
}

// addResult adds the result of a verification. It replaces an earlier result for the same backup.
func (v *Verifications) addResult(r dataset.VerifiedBackup) {
	v.Results = slices.DeleteFunc(v.Results, func(o dataset.VerifiedBackup) bool {
		return o.Repository == r.Repository && o.Backup == r.Backup
	})
	v.Results = append(v.Results, r)
	v.Results = v.Results[max(0, len(v.Results)-maxResults):]
}

// countsAsScheduled reports whether a good verification that a user has requested shows the same as a scheduled one.
func countsAsScheduled(t *Tx, d dataset.Dataset, op dataset.Operation) (bool, error) {
	wanted := d.Profile.Backup.Verify
	if !wanted.Restore || wanted.Check != "" && wanted.Check != op.Check {
		return false, nil
	}
	newest, err := NewestBackup(t, d.ID)
	return err == nil && newest.ID == op.Backup && newest.Repository == op.Repository, err
}

// NewestBackup returns the last good scheduled backup of a dataset. It is zero if none is known.
func NewestBackup(t *Tx, id uuid.UUID) (ScheduledBackup, error) {
	var b Backups
	_, err := t.Get(BackupsKey(id), &b)
	return b.Newest, err
}
