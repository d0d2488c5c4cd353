package housekeeping

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/google/uuid"

	"github.com/droverhq/drover/control/api"
	"github.com/droverhq/drover/control/condition"
	"github.com/droverhq/drover/control/record"
	"github.com/droverhq/drover/control/store"
	"github.com/droverhq/drover/dataset"
)

// backupGrace is how late a scheduled backup may be before it is reported. Backups wait for each other.
const backupGrace = 2 * time.Hour

// reportedFailures is the number of failed attempts after which a scheduled backup is reported before it is late. The
// cause of a single failure may be gone a minute later, such as another process that had the repository for itself.
const reportedFailures = 2

// BackupSchedule is the state of the scheduled backups of a volume.
type BackupSchedule struct {
	Volume string
	ScheduleState
	// Verified is the state of the scheduled verifications; nil if the profile has none.
	Verified *ScheduleState
}

// ScheduleState is the state of the scheduled backups of a volume, or of the verifications of its backups.
type ScheduleState struct {
	// Age is the time since the last good one, or since the schedule applies to the volume if it has none.
	Age time.Duration
	// Overdue is the time since the next one became due. It is 0 if none is due.
	Overdue  time.Duration
	Failures int // since the last good one
}

// seenSchedule is what both a seenBackups and a seenVerification have.
type seenSchedule struct {
	last, due time.Time // due is zero if none is due
	none      bool      // there is no good one yet, and last is when the schedule began
	failures  int
	problem   string // why the last one failed, or could not be requested
}

func newSeenSchedule(d dataset.Dataset, s record.Scheduled) seenSchedule {
	if s.Last.IsZero() {
		return seenSchedule{last: ScheduleStart(d), none: true, failures: s.Failures, problem: s.Problem}
	}
	return seenSchedule{last: s.Last, failures: s.Failures, problem: s.Problem}
}

func (is seenSchedule) overdue(now time.Time) time.Duration {
	if is.due.IsZero() {
		return 0
	}
	return max(0, now.Sub(is.due))
}

func (is seenSchedule) state(now time.Time) ScheduleState {
	return ScheduleState{Age: max(0, now.Sub(is.last)), Overdue: is.overdue(now), Failures: is.failures}
}

// age describes the last good backup or verification, and the failures after it. noGood says that there is no good one.
func (is seenSchedule) age(noGood string) string {
	text := noGood
	if !is.none {
		text = "the last good one is from " + is.last.UTC().Format(time.DateTime) + " UTC"
	}
	if is.problem != "" {
		text += fmt.Sprintf("; failed attempts: %d, the last one because %s", is.failures, is.problem)
	}
	return text
}

// backupRecords has the scheduled backups of all volumes as they were last read from the store. Only the holder of the
// turn uses its other fields.
type backupRecords struct {
	turn    chan struct{} // has an element while a caller has the turn
	list    []seenBackups
	read    time.Time
	partial partialRead
}

// partialRead is what a reading of the records has read before its context ended. The next reading continues after it,
// so that the records of a large cluster are read although each request has only a short time.
type partialRead struct {
	list  []seenBackups
	after string    // the last key that was read
	begun time.Time // zero if there is none
}

// partialReadAge is how long a partialRead is continued.
const partialReadAge = 10 * time.Minute

// backupRecordsAge is how long backupRecords are used. Reading them again needs the records of all volumes.
const backupRecordsAge = time.Minute

// seenBackups is the state of the scheduled backups of a volume.
type seenBackups struct {
	seenSchedule
	id                 uuid.UUID
	volume, repository string
	missing            bool // the repository is not recorded
	// apart is the cluster that the volume is kept apart from, in the repository of its profile; uuid.Nil if there is
	// none
	apart        uuid.UUID
	verification seenVerification
}

// seenVerification is the state of the scheduled verifications of a volume's backups.
type seenVerification struct {
	seenSchedule
	every time.Duration // 0 if there is no schedule
	// refused is why the next verification cannot be requested, as far as the records say it. Other reasons are in
	// Housekeeper.refused.
	refused string
}

// newSeenVerification returns the state of the scheduled verifications of a dataset. missing says that the repository
// of the newest backup is not recorded.
func newSeenVerification(d dataset.Dataset, newest record.ScheduledBackup, v record.Verifications,
	now time.Time, missing bool) seenVerification {
	is := seenVerification{
		seenSchedule: newSeenSchedule(d, v.Scheduled), every: time.Duration(d.Profile.Backup.Verify.Every),
	}
	if missing {
		is.refused = "repository " + newest.Repository + ", which has the newest backup, is not recorded"
	}
	v.Failures = 0 // a verification that is tried again later is late nevertheless
	is.due = verificationDue(d, newest, v, now)
	return is
}

// newSeenBackups returns the state of the scheduled backups of a dataset. missing says that its repository is not
// recorded. to is the repository, or zero.
func newSeenBackups(d dataset.Dataset, b record.Backups, now time.Time, missing bool,
	to dataset.Repository) seenBackups {
	is := seenBackups{
		seenSchedule: newSeenSchedule(d, b.Scheduled), id: d.ID, volume: d.Volume,
		repository: d.Profile.Backup.To, missing: missing,
	}
	if d.BacksUpApart(to) {
		is.apart = d.KeptApart.Cluster
		return is // none is due
	}
	b.Failures = 0                   // a backup that is tried again later is late nevertheless
	is.due, _ = backupDue(d, b, now) // zero for a schedule that is not valid
	return is
}

// readBackups returns the states of all volumes by name, as the store has them. They are from a reading that ended at
// most backupRecordsAge ago. One caller reads at a time. The others wait for its states, or for the end of their ctx.
func (k *Housekeeper) readBackups(ctx context.Context) ([]seenBackups, error) {
	r := &k.backupRecords
	select {
	case r.turn <- struct{}{}:
		defer func() { <-r.turn }()
	case <-ctx.Done():
		return nil, ctx.Err()
	}
	now := k.Ledger.Clock.Now()
	if age := now.Sub(r.read); age >= 0 && age < backupRecordsAge {
		return r.list, nil
	}
	if age := now.Sub(r.partial.begun); age < 0 || age > partialReadAge {
		r.partial = partialRead{begun: now}
	}
	if err := k.continueReading(ctx, &r.partial, now); err != nil {
		return nil, err
	}
	r.list, r.read, r.partial = r.partial.list, k.Ledger.Clock.Now(), partialRead{}
	slices.SortFunc(r.list, func(a, b seenBackups) int { return cmp.Compare(a.volume, b.volume) })
	return r.list, nil
}

// continueReading reads the states of the volumes that p lacks. If it fails, p has those that were read.
func (k *Housekeeper) continueReading(ctx context.Context, p *partialRead, now time.Time) error {
	t := record.NewTx(ctx, k.Ledger.Store)
	for {
		entries, err := t.List(record.DatasetsPrefix, p.after, api.MaxPage)
		if err != nil {
			return err
		}
		for some := range slices.Chunk(entries, store.MaxOps/2) {
			states, err := readBackupsOf(t, some, now)
			if err != nil {
				return err
			}
			p.list, p.after = append(p.list, states...), some[len(some)-1].Key
		}
		if len(entries) < api.MaxPage {
			return nil
		}
	}
}

// readBackupsOf returns the states of those datasets that have scheduled backups. A damaged record is left out: the
// background work reports it.
func readBackupsOf(t *record.Tx, entries []store.Entry, now time.Time) (list []seenBackups, err error) {
	var scheduled []dataset.Dataset
	var keys []string
	for _, e := range entries {
		var d dataset.Dataset
		if record.Decode(e.Key, e.Value, &d) == nil && d.State == dataset.StateReady && d.Profile.Backup.To != "" {
			scheduled, keys = append(scheduled, d), append(keys, record.BackupsKey(d.ID))
			if d.Profile.Backup.Verify.Restore {
				keys = append(keys, record.VerificationsKey(d.ID))
			}
		}
	}
	// Peek reports a damaged record for its volume only.
	if err := t.Prefetch(keys); err != nil && dataset.KindOf(err) != dataset.ErrCorrupt {
		return nil, err
	}
	for _, d := range scheduled {
		var b record.Backups
		if _, err = t.Peek(record.BackupsKey(d.ID), &b); err != nil && dataset.KindOf(err) != dataset.ErrCorrupt {
			return nil, err
		}
		var to dataset.Repository
		known, err := t.Peek(record.RepositoryKey(d.Profile.Backup.To), &to)
		if err != nil && dataset.KindOf(err) != dataset.ErrCorrupt {
			return nil, err
		}
		is := newSeenBackups(d, b, now, !known && err == nil, to)
		if d.Profile.Backup.Verify.Restore {
			var v record.Verifications
			_, err := t.Peek(record.VerificationsKey(d.ID), &v)
			if err != nil && dataset.KindOf(err) != dataset.ErrCorrupt {
				return nil, err
			}
			missing, err := lacksRepository(t, b.Newest)
			if err != nil {
				return nil, err
			}
			is.verification = newSeenVerification(d, b.Newest, v, now, missing)
		}
		list = append(list, is)
	}
	return list, nil
}

// BackupSchedules returns the state of the volumes whose profile has scheduled backups, by name.
func (k *Housekeeper) BackupSchedules(ctx context.Context) ([]BackupSchedule, error) {
	list, err := k.readBackups(ctx)
	now := k.Ledger.Clock.Now()
	out := make([]BackupSchedule, len(list))
	for i, is := range list {
		out[i] = BackupSchedule{Volume: is.volume, ScheduleState: is.state(now)}
		if v := is.verification; v.every > 0 {
			state := v.state(now)
			out[i].Verified = &state
		}
	}
	return out, err
}

// LateBackups returns the warnings about the scheduled backups: for each volume whose backup or whose verification is
// late, whose backup failed repeatedly, or whose repository is not recorded. It also returns an error for each volume
// whose backup was found damaged or absent. All control replicas return the same ones. Only why a verification cannot
// be requested is not always in the records.
func (k *Housekeeper) LateBackups(ctx context.Context) ([]api.Finding, error) {
	list, err := k.readBackups(ctx)
	if err != nil {
		return nil, err
	}
	damaged, err := k.damagedBackups(ctx)
	if err != nil {
		return nil, err
	}
	now := k.Ledger.Clock.Now()
	var late condition.List
	for _, is := range list {
		is.check(&late, now)
		if !slices.ContainsFunc(damaged, func(f api.Finding) bool { return f.Subject == "volume "+is.volume }) {
			if why, refused := k.refused.Load(is.id); refused {
				is.verification.refused = why.(string)
			}
			is.verification.check(&late, is.volume, now)
		}
	}
	return append(late, damaged...), nil
}

// damagedBackups returns an error for each backup that is recorded as damaged.
func (k *Housekeeper) damagedBackups(ctx context.Context) (out condition.List, err error) {
	t := record.NewTx(ctx, k.Ledger.Store)
	entries, err := t.List(record.DamagedPrefix, "", 0)
	if err != nil {
		return nil, err
	}
	for _, e := range entries {
		var damaged record.DamagedBackups
		if err := record.Decode(e.Key, e.Value, &damaged); err != nil {
			out.Add(condition.BackupRecordDamaged, "store", "", dataset.OneLine(err))
			continue
		}
		var d dataset.Dataset
		there, err := t.Peek(record.DatasetKey(damaged.Dataset), &d)
		if err != nil && dataset.KindOf(err) != dataset.ErrCorrupt {
			return nil, err
		}
		if !there || err != nil || d.State != dataset.StateReady {
			continue
		}
		of, err := record.DamagedOf(t, d.ID)
		if err != nil {
			return nil, err
		}
		var pool dataset.Pool
		if _, err := t.Peek(record.PoolKey(d.Pool), &pool); err != nil && dataset.KindOf(err) != dataset.ErrCorrupt {
			return nil, err
		}
		again := "drover backup create " + d.Volume
		if !pool.Capabilities.InstantSnapshot { // it backs up snapshots only
			again = "drover snapshot create " + d.Volume + ", " + again + " --snapshot ID"
		}
		check := ""
		if v := d.Profile.Backup.Verify; v.Restore && v.Check != "" {
			check = " --check " + v.Check
		}
		for _, is := range of {
			out.Add(condition.BackupDamaged, "volume "+d.Volume,
				fmt.Sprintf("drover repository check %s --read-data 100, then, on the home: %s --to %[1]s, and drover "+
					"backup verify %[3]s --repository %[1]s%[4]s", is.Repository, again, d.Volume, check),
				fmt.Sprintf("%.8s", is.Backup), is.Repository, is.Problem)
		}
	}
	return out, nil
}

// check adds the warning about scheduled backups, if there is one.
func (is seenBackups) check(out *condition.List, now time.Time) {
	subject, overdue := "volume "+is.volume, is.overdue(now)
	switch {
	case is.missing:
		out.Add(condition.BackupWithoutRepository, subject,
			"drover repository add "+is.repository+" URL --password file:PATH", is.repository)
	case is.apart != uuid.Nil:
		out.Add(condition.BackupsApart, subject, fmt.Sprintf("if that cluster is gone: drover recover --from %s %s "+
			"--take-over; otherwise: drover volume set-profile %[2]s PROFILE, with another repository", is.repository,
			is.volume), is.apart.String()[:8], is.repository)
	case overdue <= backupGrace && is.failures >= reportedFailures:
		out.Add(condition.BackupFailing, subject, "drover operation ls --filter volume="+is.volume,
			is.failures, is.problem)
	case overdue > backupGrace:
		out.Add(condition.BackupLate, subject, "drover volume inspect "+is.volume, overdue.Round(time.Minute),
			is.age("it has no good one"))
	}
}

// check adds the warning about scheduled verifications, if there is one.
func (is seenVerification) check(out *condition.List, volume string, now time.Time) {
	overdue := is.overdue(now)
	if is.every == 0 || overdue <= backupGrace+is.every/4 { // those of a host wait for each other
		return
	}
	text := is.age("there is no good one")
	if is.refused != "" {
		text += "; the next one cannot be requested: " + is.refused
	}
	out.Add(condition.BackupNotVerified, "volume "+volume, "drover volume inspect "+volume,
		overdue.Round(time.Minute), text)
}
