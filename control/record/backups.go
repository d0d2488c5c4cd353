package record

import (
	"slices"
	"time"

	"github.com/google/uuid"

	"github.com/droverhq/drover/dataset"
)

// running returns the operation that was requested last; nil if it has ended, or if there is none.
func (s *Scheduled) running(t *Tx) (*dataset.Operation, error) {
	var op dataset.Operation
	if s.Running == uuid.Nil {
		return nil, nil //nolint:nilnil // none is no error
	}
	if there, err := t.Get(OperationKey(s.Running), &op); err != nil || !there || op.State.Final() {
		return nil, err
	}
	return &op, nil
}

// end records the end of the operation of the dataset d that was running.
func (s *Scheduled) end(t *Tx, d dataset.Dataset, op dataset.Operation) error {
	s.Running = uuid.Nil
	switch op.State {
	case dataset.OpDone:
		s.succeed(op.Created)
	case dataset.OpCancelled:
		// If the operation belongs to a former home that is lost, control has cancelled it. The new home then begins
		// one at once. If a user has cancelled it, the next one is at the next moment of the schedule.
		lost, err := IsOnLostNode(t, d, op)
		if err != nil {
			return err
		}
		if !lost {
			s.After = op.Ended
		}
	default:
		s.Failures, s.Failed = s.Failures+1, op.Ended
		if op.Problem != nil {
			s.Problem = op.Problem.Message
		}
	}
	return nil
}

// succeed records a good operation that was requested at a time.
func (s *Scheduled) succeed(at time.Time) {
	s.After, s.Last, s.Failures, s.Failed, s.Problem = at, at, 0, time.Time{}, ""
}

// RunningBackup returns the operation of the scheduled backup of a dataset that has not ended; nil if there is none.
func RunningBackup(t *Tx, id uuid.UUID) (*dataset.Operation, error) {
	var b Backups
	if _, err := t.Get(BackupsKey(id), &b); err != nil {
		return nil, err
	}
	return b.running(t)
}

// SettleBackup records how the scheduled backup of a dataset ended, if its operation has ended without EndBackup,
// because a record of the schedule was damaged at that time, or if it was forgotten meanwhile. Idempotent.
func SettleBackup(t *Tx, id uuid.UUID) error {
	var b Backups
	if _, err := t.Get(BackupsKey(id), &b); err != nil || b.Running == uuid.Nil {
		return err
	}
	var op dataset.Operation
	there, err := t.Get(OperationKey(b.Running), &op)
	switch {
	case err != nil:
		return err
	case !there:
		b.Running = uuid.Nil
		return t.Put(BackupsKey(id), b)
	case op.State.Final():
		return EndBackup(t, op)
	}
	return nil
}

// IsOnLostNode reports whether an operation of a dataset must be carried out by a former home that is unreachable or
// was removed.
func IsOnLostNode(t *Tx, d dataset.Dataset, op dataset.Operation) (bool, error) {
	if op.Node == d.Home {
		return false, nil
	}
	unreachable, err := t.Get(UnreachableKey(op.Node), &Unreachable{})
	if err != nil || unreachable {
		return unreachable, err
	}
	known, err := t.Get(NodeKey(op.Node), &dataset.Node{})
	return !known, err
}

// BeginBackup records that a scheduled backup was requested.
func BeginBackup(t *Tx, op dataset.Operation) error {
	var b Backups
	if _, err := t.Get(BackupsKey(op.DatasetID), &b); err != nil {
		return err
	}
	b.Dataset, b.Running = op.DatasetID, op.ID
	return t.Put(BackupsKey(op.DatasetID), b)
}

// OpenRestores returns the IDs of the backups that are being read: by an import or a verification, on any node, that
// has not ended. A repository can be recorded under several names.
func OpenRestores(t *Tx) (map[string]bool, error) {
	reads := map[string]bool{}
	err := eachOpen(t, func(op dataset.Operation) {
		if op.Kind == dataset.OpImport || op.Kind == dataset.OpVerify {
			reads[op.Backup] = true
		}
	})
	return reads, err
}

// eachOpen calls f for each recorded operation that has not ended.
func eachOpen(t *Tx, f func(op dataset.Operation)) error {
	claims, err := ListAll[Claim](t, AllWorkPrefix)
	if err != nil {
		return err
	}
	keys := make([]string, len(claims))
	for i, c := range claims {
		keys[i] = OperationKey(c.ID)
	}
	if err := t.Prefetch(keys); err != nil {
		return err
	}
	for _, key := range keys {
		var op dataset.Operation
		ok, err := t.Peek(key, &op)
		if err != nil {
			return err
		}
		if ok && !op.State.Final() {
			f(op)
		}
	}
	return nil
}

// maxMade is the maximum length of Backups.Made, because the size of a value in the store is limited. Backups in former
// repositories count too. The oldest entries are dropped, and their backups stay in the repository. Made reaches the
// bound only if the profile keeps that many, or if nothing expires for a long time because the record of an operation
// is damaged.
const maxMade = 500

// EndManualBackup clears the failures of a dataset's scheduled backups if a backup that a user requested has succeeded
// in the same repository. The next scheduled backup is then due at the moment of the schedule, without a delay. A
// backup of a snapshot does not count: its content can be as old as the last good backup.
func EndManualBackup(t *Tx, op dataset.Operation) error {
	if op.State != dataset.OpDone || op.Snapshot != nil {
		return nil
	}
	var d dataset.Dataset
	there, err := t.Get(DatasetKey(op.DatasetID), &d)
	if err != nil || !there || op.Repository != d.Profile.Backup.To {
		return err
	}
	var b Backups
	if _, err := t.Get(BackupsKey(d.ID), &b); err != nil || b.Failures == 0 {
		return err
	}
	b.Failures, b.Failed, b.Problem = 0, time.Time{}, ""
	return t.Put(BackupsKey(d.ID), b)
}

// EndBackup records how a scheduled backup ended. The transaction also writes its operation.
func EndBackup(t *Tx, op dataset.Operation) error {
	var d dataset.Dataset
	if there, err := t.Get(DatasetKey(op.DatasetID), &d); err != nil || !there {
		return err
	}
	var b Backups
	if _, err := t.Get(BackupsKey(d.ID), &b); err != nil || b.Running != op.ID {
		return err
	}
	if err := b.end(t, d, op); err != nil {
		return err
	}
	if op.State == dataset.OpDone {
		b.Newest = ScheduledBackup{ID: op.Backup, Operation: op.ID, Repository: op.Repository, Time: op.Created}
		if d.Profile.Backup.Keep != (dataset.Keep{}) {
			b.Made = append(b.Made, b.Newest)
			b.Made = b.Made[max(0, len(b.Made)-maxMade):]
		}
	}
	return t.Put(BackupsKey(d.ID), b)
}

// Parents is the value of a dataset's key under parents/: the backups that can be restic's parent of the next one. The
// key is absent if there is none.
type Parents struct {
	Dataset uuid.UUID      `json:"dataset"`
	Of      []ParentBackup `json:"of"` // at most one for each repository
}

// ParentBackup is a backup whose files have the content that their change times say. restic does not read a file that
// has the same size, inode and times as in the parent. So the parent must be exact (see dataset.Snapshot), and since
// then, only writes may have changed the volume.
type ParentBackup struct {
	Repository string    `json:"repository"`
	ID         string    `json:"id"`
	Session    string    `json:"session"`           // of the volume when it was made; in another one it is no parent
	Content    uint64    `json:"content"`           // that of the dataset when the backup was planned
	Recovery   uuid.UUID `json:"recovery,omitzero"` // last recovery of the store when the backup was recorded
}

// maxParents bounds Parents.Of. The oldest are dropped.
const maxParents = 32

// ParentOf returns the backup that can be restic's parent of the next backup of a dataset in a repository. It has no ID
// if there is none.
func ParentOf(t *Tx, d dataset.Dataset, repository string) (b ParentBackup, err error) {
	var p Parents
	if there, err := t.Get(ParentsKey(d.ID), &p); err != nil || !there {
		return b, err
	}
	recovery, err := lastRecovery(t)
	if err != nil {
		return b, err
	}
	restores, err := restores(t, d.ID)
	if err != nil || restores {
		return b, err
	}
	for _, o := range p.Of {
		if o.Repository == repository && o.Content == d.Content && o.Recovery == recovery {
			b = o
		}
	}
	return b, nil
}

// PutParent records the backup that an operation has made as the parent of the next one, if it can be that. It keeps
// the recorded one if it cannot.
func PutParent(t *Tx, op dataset.Operation) error {
	if op.ExactSession == "" || op.Snapshot != nil {
		return nil
	}
	var d dataset.Dataset
	there, err := t.Get(DatasetKey(op.DatasetID), &d)
	if err != nil || !there || d.Content != op.Content || d.Epoch != op.Epoch {
		return err
	}
	if restores, err := restores(t, d.ID); err != nil || restores {
		return err
	}
	b := ParentBackup{Repository: op.Repository, ID: op.Backup, Session: op.ExactSession, Content: d.Content}
	if b.Recovery, err = lastRecovery(t); err != nil {
		return err
	}
	var p Parents
	if _, err := t.Get(ParentsKey(d.ID), &p); err != nil {
		return err
	}
	p.Dataset = d.ID
	p.Of = slices.DeleteFunc(p.Of, func(o ParentBackup) bool { return o.Repository == b.Repository })
	p.Of = append(p.Of, b)
	p.Of = p.Of[max(0, len(p.Of)-maxParents):]
	return t.Put(ParentsKey(d.ID), p)
}

// EndContent says in the record of a dataset, which the caller writes, that its content is replaced other than by
// writes. No backup made before is the parent of a later one, also one that still runs.
func EndContent(t *Tx, d *dataset.Dataset) {
	d.Content++
	t.Delete(ParentsKey(d.ID))
}

// restores reports whether a restore of a dataset to a snapshot has not ended. Its home can have replaced the content
// already.
func restores(t *Tx, id uuid.UUID) (bool, error) {
	open := false
	err := eachOpen(t, func(op dataset.Operation) {
		open = open || op.Kind == dataset.OpRestore && op.DatasetID == id
	})
	return open, err
}

// lastRecovery returns the ID of the last recovery of the store. A store that was restored from a backup can have a
// former record of parents.
func lastRecovery(t *Tx) (uuid.UUID, error) {
	var r Recovery
	_, err := t.Peek(RecoveryKey, &r)
	return r.ID, err
}

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
// the store was restored from an older backup. Idempotent.
func SettleVerification(t *Tx, id uuid.UUID) error {
	var v Verifications
	if _, err := t.Get(VerificationsKey(id), &v); err != nil || v.Running == uuid.Nil {
		return err
	}
	if running, err := v.running(t); err != nil || running != nil {
		return err
	}
	v.Running = uuid.Nil
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

// DamagedOf returns the damaged backups of a dataset, at most one for each repository, without those in repositories
// that are not recorded any more. It fails with dataset.ErrCorrupt if the record of them is damaged.
func DamagedOf(t *Tx, id uuid.UUID) (of []DamagedBackup, err error) {
	var damaged DamagedBackups
	if _, err := t.Get(DamagedKey(id), &damaged); err != nil {
		return nil, err
	}
	for _, b := range damaged.Of {
		there, err := t.Peek(RepositoryKey(b.Repository), &dataset.Repository{})
		if err != nil && dataset.KindOf(err) != dataset.ErrCorrupt {
			return nil, err
		}
		if there || err != nil {
			of = append(of, b)
		}
	}
	return of, nil
}

// IsDamaged reports whether a backup of a dataset in a repository was found damaged or absent, and none was found good
// since: see noteResult.
func IsDamaged(t *Tx, id uuid.UUID, repository string) (bool, error) {
	of, err := DamagedOf(t, id)
	if dataset.KindOf(err) == dataset.ErrCorrupt {
		return true, nil
	}
	return slices.ContainsFunc(of, func(b DamagedBackup) bool { return b.Repository == repository }), err
}

// noteResult records that a verification found a backup of a dataset damaged or absent, or that a good one ends that
// record: see DamagedBackup.endedBy. What another check program than that of the profile refuses is not recorded: it
// can be the wrong one for the volume. A damaged record of the damaged backups ends with any good verification by the
// home.
func noteResult(t *Tx, d dataset.Dataset, op dataset.Operation) error {
	unusable, program := FoundUnusable(op), checkProgram(d)
	if op.Refused && op.Check != program {
		return nil
	}
	if !unusable && (op.State != dataset.OpDone || op.Node != d.Home) { // another node could lie
		return nil
	}
	of, err := DamagedOf(t, d.ID)
	if err != nil && dataset.KindOf(err) != dataset.ErrCorrupt {
		return err
	}
	at := slices.IndexFunc(of, func(b DamagedBackup) bool { return b.Repository == op.Repository })
	switch {
	case unusable && at >= 0:
		of[at] = of[at].with(op)
	case unusable:
		of = append(of, DamagedBackup{
			Repository: op.Repository, Backup: op.Backup, Found: op.Ended, Problem: op.Problem.Message,
		})
	case at >= 0 && (program == "" || op.Check == program) && of[at].endedBy(op):
		of = slices.Delete(of, at, at+1)
	}
	if len(of) == 0 {
		t.Delete(DamagedKey(d.ID))
		return nil
	}
	return t.Put(DamagedKey(d.ID), DamagedBackups{d.ID, of})
}

// with returns the entry after a verification found another backup in the repository damaged, or the same one again.
func (b DamagedBackup) with(op dataset.Operation) DamagedBackup {
	if b.Backup != op.Backup {
		b.Backup, b.Others, b.Found = op.Backup, true, op.Ended
	}
	b.Problem = op.Problem.Message
	return b
}

// endedBy reports whether a good verification by the home, with the check program of the profile if it has one, ends
// the record of damage. The backup must have content from after the damage was found, or be the only one that was found
// damaged.
//
// That a backup was made later is not enough: it has the same damage where restic found that the repository has the
// data already.
func (b DamagedBackup) endedBy(op dataset.Operation) bool {
	later := op.Taken.After(b.Found) && !op.Taken.After(op.Ended.Add(dataset.MaxClockSkew))
	return later || b.Backup == op.Backup && !b.Others
}

// checkProgram returns the check program of a dataset's scheduled verifications, or "".
func checkProgram(d dataset.Dataset) string {
	if !d.Profile.Backup.Verify.Restore {
		return ""
	}
	return d.Profile.Backup.Verify.Check
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
	if err := noteResult(t, d, op); err != nil {
		return err
	}
	var v Verifications
	if _, err := t.Get(VerificationsKey(d.ID), &v); err != nil {
		return err
	}
	v.Dataset = d.ID
	var err error
	good, unusable := op.State == dataset.OpDone, FoundUnusable(op)
	switch {
	case op.Scheduled && v.Running != op.ID:
		return nil
	case op.Scheduled:
		err = v.end(t, d, op)
	case good:
		var counts bool
		if counts, err = countsAsScheduled(t, d, op); counts {
			v.succeed(op.Created)
		}
	}
	if err == nil && (good || unusable) {
		v.addResult(dataset.VerifiedBackup{
			Repository: op.Repository, Backup: op.Backup, At: op.Ended, Check: op.Check, Failed: unusable,
		})
	}
	if err != nil || !op.Scheduled && !good && !unusable {
		return err // in the last case, nothing is known about the backup
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
	program := checkProgram(d)
	if !d.Profile.Backup.Verify.Restore || program != "" && program != op.Check || op.Node != d.Home {
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
