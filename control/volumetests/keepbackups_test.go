package volume_test

import (
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"

	"github.com/droverhq/drover/control/api"
	"github.com/droverhq/drover/control/controltest"
	"github.com/droverhq/drover/control/record"
	"github.com/droverhq/drover/control/store"
	"github.com/droverhq/drover/dataset"
	"github.com/droverhq/drover/test/require"
)

// keptBackups adds the profile "backed" with a rule of retention, and its repository.
func keptBackups(e *controltest.Control, keep dataset.Keep) {
	e.Helper()
	p := e.ProfileSet.ByName["silver"]
	p.Name, p.Revision = "backed", "r1-backed"
	p.Backup = dataset.Backups{To: "offsite", Schedule: "@hourly", Keep: keep}
	e.ProfileSet.ByName[p.Name] = p
	controltest.AddRepository(e, "offsite")
}

// scheduledBackup makes a scheduled backup of db. It returns its ID, and the IDs of the backups that expire.
func scheduledBackup(a *controltest.Agent) (id string, expired []string) {
	a.Helper()
	repository := a.MustVolume("db").Profile.Backup.To
	op := *a.Control.MustSubmit(api.Request{ID: uuid.New(), Kind: dataset.OpBackup, Volume: "db", Repository: repository, Scheduled: true}).Operation
	return finishScheduled(a, op)
}

// backupID returns the ID of the backup that an operation makes in tests.
func backupID(op uuid.UUID) string { return strings.ReplaceAll(op.String()+op.String(), "-", "") }

func finishScheduled(a *controltest.Agent, op dataset.Operation) (id string, expired []string) {
	a.Helper()
	op.Backup = backupID(op.ID)
	for _, e := range a.MustCommit(op).Expired {
		if e.ID != backupID(e.Operation) {
			a.Errorf("got %+v of another operation", e)
		}
		expired = append(expired, e.ID)
	}
	a.MustCommit(op) // right before it removes them
	return op.Backup, expired
}

// wantExpired fails unless exactly the backups with the IDs expire.
func wantExpired(t *testing.T, what string, got []string, want ...string) {
	t.Helper()
	if fmt.Sprint(got) != fmt.Sprint(want) {
		t.Errorf("%s: got %d expired backups %v, want %v", what, len(got), got, want)
	}
}

func backedVolume(t *testing.T, keep dataset.Keep) (*controltest.Control, *controltest.Agent) {
	t.Helper()
	e := controltest.New(t)
	keptBackups(e, keep)
	a := e.NewAgent("alpha")
	a.MustRegister("alpha")
	a.MustCreate("db@backed")
	return e, a
}

// The newest backup of each of the last days stays. A backup that should be removed is named again after the next
// backups, because the agent may fail to remove it.
func TestBackupsExpire(t *testing.T) {
	e, a := backedVolume(t, dataset.Keep{Daily: 2})
	var ids []string
	for i := range 5 {
		id, expired := scheduledBackup(a)
		ids = append(ids, id)
		wantExpired(t, fmt.Sprint("day ", i), expired, ids[:max(0, i-1)]...)
		e.Clock.Advance(24 * time.Hour)
	}
	for range 40 {
		_, expired := scheduledBackup(a)
		e.Clock.Advance(24 * time.Hour)
		if len(expired) > 30 {
			t.Fatalf("%d backups are named at once", len(expired))
		}
	}
	e.CheckInvariants()
}

// Control names the new backup, the earlier ones in the repository that retention keeps, and those that a restore reads,
// so that the agent keeps them, and can see whether the repository has them. Those that expire or are from the future
// are not among them.
func TestRetainedBackupsAreNamed(t *testing.T) {
	e, a := backedVolume(t, dataset.Keep{Last: 3})
	e.Clock.Advance(time.Hour)
	scheduledBackup(a)
	e.Clock.Advance(-time.Minute)
	var ids []string
	for range 6 {
		id, _ := scheduledBackup(a)
		ids = append(ids, id)
	}
	controltest.AddRepository(e, "again")
	e.MustSubmit(api.Request{ID: uuid.New(), Kind: dataset.OpVerify, Volume: "copy", Repository: "again", Backup: ids[2]})
	op := *e.MustSubmit(api.Request{ID: uuid.New(), Kind: dataset.OpBackup, Volume: "db", Repository: "offsite", Scheduled: true}).Operation
	op.Backup = backupID(op.ID)
	for range 2 {
		out, want := a.MustCommit(op), []string{op.Backup, ids[4], ids[5]}
		if !slices.Equal(out.Retained, want) || !slices.Equal(out.Reading, ids[2:3]) || len(out.Expired) != 3 {
			t.Errorf("got %v and %v, and %d expired; want %v, and 3", out.Retained, out.Reading, len(out.Expired), want)
		}
	}
}

// Control names an expired backup until the agent has tried 30 times to remove it, and says so the last time. The agent
// reports again right before it tries.
func TestLastRequestToRemoveBackup(t *testing.T) {
	_, a := backedVolume(t, dataset.Keep{Last: 1})
	first, _ := scheduledBackup(a)
	made := func() dataset.Operation {
		op := *a.Control.MustSubmit(api.Request{ID: uuid.New(), Kind: dataset.OpBackup, Volume: "db", Repository: "offsite", Scheduled: true}).Operation
		op.Backup = backupID(op.ID)
		return op
	}
	for range 31 { // the agent does not try, because another backup runs
		a.MustCommit(made())
	}
	for i := range 31 {
		op := made()
		for tries := range 2 {
			expired := a.MustCommit(op).Expired
			if named := expired[0].ID == first; named != (i < 30) || named && expired[0].Final != (i+tries == 30) {
				t.Fatalf("after %d backups: got %+v", i+1, expired[0])
			}
		}
	}
}

// A wrong clock never makes the backup expire that was just made, and a backup from the future neither expires nor makes
// others expire.
func TestWrongClockKeepsBackups(t *testing.T) {
	e, a := backedVolume(t, dataset.Keep{Last: 1, Daily: 2})
	first, _ := scheduledBackup(a)
	e.Clock.Advance(24 * time.Hour)
	second, expired := scheduledBackup(a)
	wantExpired(t, "the second day", expired)
	e.Clock.Advance(-20 * 365 * 24 * time.Hour)
	past, expired := scheduledBackup(a)
	wantExpired(t, "in the past", expired)
	e.Clock.Advance(time.Hour)
	past2, expired := scheduledBackup(a)
	wantExpired(t, "in the past, again", expired, past) // of the same day
	e.Clock.Advance(40 * 365 * 24 * time.Hour)
	future, expired := scheduledBackup(a)
	wantExpired(t, "in the future", expired, first, second, past)
	e.Clock.Advance(-20*365*24*time.Hour + 24*time.Hour)
	for i := range 5 {
		e.Clock.Advance(24 * time.Hour)
		id, expired := scheduledBackup(a)
		for _, x := range expired {
			if x == id || x == future {
				t.Errorf("day %d: backup %s expires", i, x)
			}
		}
	}
	_ = past2
}

// Backups that failed or were cancelled, and manual ones, neither count nor expire.
func TestOnlyGoodScheduledBackupsCount(t *testing.T) {
	e, a := backedVolume(t, dataset.Keep{Last: 2})
	first, _ := scheduledBackup(a)
	second, _ := scheduledBackup(a)
	for i := range 20 {
		req := api.Request{ID: uuid.New(), Kind: dataset.OpBackup, Volume: "db", Repository: "offsite"}
		if i%2 == 0 {
			req.Scheduled = true
		}
		// A node can request manual backups of its volumes.
		op := *e.MustSubmit(req).Operation
		op.Backup = backupID(op.ID)
		switch {
		case i%4 == 0:
			op.Problem = dataset.ProblemOf(dataset.Errorf(dataset.ErrCorrupt, "interrupted"))
			a.MustCommit(op)
		case i%4 == 2:
			e.OK(e.CancelOperation(e.Ctx, op.ID.String()))
			if err := a.TryCommit(op); dataset.KindOf(err) != dataset.ErrCancelled {
				t.Errorf("report after the cancellation: %v", err)
			}
		default:
			op.Scheduled = true // a node cannot say that its backup was scheduled
			if out := a.MustCommit(op); len(out.Expired) != 0 {
				t.Fatalf("a manual backup makes %v expire", out.Expired)
			}
		}
	}
	_, expired := scheduledBackup(a)
	wantExpired(t, "the third", expired, first)
	_, expired = scheduledBackup(a)
	wantExpired(t, "the fourth", expired, first, second)
	e.CheckInvariants()
}

// Retention applies to the backups of a dataset in one repository. A volume that has the name later has its own.
func TestRetentionOfOneDatasetAndRepository(t *testing.T) {
	e, a := backedVolume(t, dataset.Keep{Last: 1})
	first, _ := scheduledBackup(a)
	a.MustDelete("db")
	a.MustCreate("db@backed")
	second, expired := scheduledBackup(a)
	wantExpired(t, "another volume of the name", expired)
	controltest.AddRepository(e, "nas")
	p := e.ProfileSet.ByName["backed"]
	p.Revision, p.Backup.To = "r2-backed", "nas"
	e.ProfileSet.ByName["backed"] = p
	e.MustSubmit(api.Request{ID: uuid.New(), Kind: dataset.OpUpdate, Volume: "db", Profile: "backed"})
	third, expired := scheduledBackup(a)
	wantExpired(t, "another repository", expired)
	_, expired = scheduledBackup(a)
	wantExpired(t, "the repository again", expired, third)
	_, _ = first, second
	e.CheckInvariants()
}

// A backup that a restore or a verification reads stays until the operation has ended.
func TestBackupInUseDoesNotExpire(t *testing.T) {
	for _, kind := range []dataset.OpKind{dataset.OpImport, dataset.OpVerify} {
		t.Run(string(kind), func(t *testing.T) {
			e, a := backedVolume(t, dataset.Keep{Last: 1})
			first, _ := scheduledBackup(a)
			restore := api.Request{ID: uuid.New(), Kind: kind, Volume: "copy", Repository: "offsite", Backup: first}
			op := *e.MustSubmit(restore).Operation
			second, expired := scheduledBackup(a)
			wantExpired(t, "while it is read", expired)
			e.OK(e.CancelOperation(e.Ctx, op.ID.String()))
			_, expired = scheduledBackup(a)
			wantExpired(t, "after the end", expired, first, second)
		})
	}
}

// Without keep, all backups stay and control does not record each of them.
func TestAllBackupsAreKeptWithoutRule(t *testing.T) {
	e, a := backedVolume(t, dataset.Keep{})
	for range 3 {
		_, expired := scheduledBackup(a)
		wantExpired(t, "without keep", expired)
		e.Clock.Advance(24 * time.Hour)
	}
	var b record.Backups
	if _, err := record.NewTx(e.Ctx, e.Spy).Get(record.BackupsKey(a.MustVolume("db").ID), &b); err != nil || len(b.Made) != 0 {
		t.Errorf("got %+v, %v", b, err)
	}
}

// A damaged record of another operation does not keep a backup from being recorded. Nothing expires meanwhile, because
// the operation may be a restore.
func TestBackupBesideDamagedOperation(t *testing.T) {
	e, a := backedVolume(t, dataset.Keep{Last: 1})
	b := e.NewAgent("beta")
	b.MustRegister("beta")
	b.MustCreate("web@bronze")
	other := *e.MustSubmit(api.Request{ID: uuid.New(), Kind: dataset.OpSnapshot, Volume: "web"}).Operation
	first, _ := scheduledBackup(a)
	damaged := []store.Write{{Key: record.OperationKey(other.ID), Value: []byte(`{"id":`)}}
	e.OK(e.Spy.Store.Txn(e.Ctx, nil, damaged))
	e.Clock.Advance(time.Hour)
	_, expired := scheduledBackup(a)
	wantExpired(t, "beside a damaged operation", expired)
	repaired := []store.Write{{Key: record.OperationKey(other.ID), Delete: true}}
	e.OK(e.Spy.Store.Txn(e.Ctx, nil, repaired))
	e.Clock.Advance(time.Hour)
	if _, expired = scheduledBackup(a); len(expired) != 2 || expired[0] != first {
		t.Errorf("after the repair, %v expire; want the first two backups, %s before", expired, first)
	}
}

// Control remembers a limited number of backups, so that the next one can be recorded although none expired for a long
// time. Those in former repositories count. The oldest ones are forgotten first.
func TestRememberedBackupsAreBounded(t *testing.T) {
	e, a := backedVolume(t, dataset.Keep{Last: 9999})
	first, _ := scheduledBackup(a)
	key := record.BackupsKey(a.MustVolume("db").ID)
	var b record.Backups
	read := func() []byte {
		t.Helper()
		entry, err := e.Spy.Store.Get(e.Ctx, key)
		require.NoError(t, err)
		b = record.Backups{}
		e.OK(json.Unmarshal(entry.Value, &b))
		return entry.Value
	}
	read()
	for i := range 700 {
		m := b.Made[0]
		m.Operation, m.Removals = uuid.New(), 29
		if m.ID = backupID(m.Operation); i%2 == 0 {
			m.Repository = strings.Repeat("r", 64)
		}
		b.Made = append(b.Made, m)
	}
	value, err := json.Marshal(b)
	require.NoError(t, err)
	e.OK(e.Spy.Store.Txn(e.Ctx, nil, []store.Write{{Key: key, Value: value}}))
	id, _ := scheduledBackup(a)
	value = read()
	if len(b.Made) != 500 || b.Made[499].ID != id || b.Made[0].ID == first || len(value) > store.MaxValue*3/4 {
		t.Errorf("%d backups are remembered in %d bytes, and the last one is %s; want 500 and %s",
			len(b.Made), len(value), b.Made[len(b.Made)-1].ID, id)
	}
	e.CheckInvariants()
}
