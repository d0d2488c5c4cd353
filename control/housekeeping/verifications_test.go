package housekeeping_test

import (
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"

	"github.com/droverhq/drover/control/api"
	"github.com/droverhq/drover/control/controltest"
	"github.com/droverhq/drover/control/record"
	"github.com/droverhq/drover/dataset"
	"github.com/droverhq/drover/test/require"
)

const (
	checkProgram = "/etc/drover/checks/db"
	week         = 7 * 24 * time.Hour
)

// tested adds the profile "tested", whose volumes are backed up every day and verified every week, and its repository.
func tested(e *controltest.Control) {
	p := e.ProfileSet.ByName["silver"]
	p.Name, p.Revision = "tested", "r1-tested"
	p.Backup = dataset.Backups{
		To: "offsite", Schedule: "@daily",
		Verify: dataset.Verification{Every: dataset.Duration(week), Restore: true, Check: checkProgram},
	}
	e.ProfileSet.ByName[p.Name] = p
	controltest.AddRepository(e, "offsite")
}

// newTested returns a service with the repository offsite, an agent alpha, and its volume db with the profile "tested".
func newTested(t *testing.T) (e *controltest.Control, a *controltest.Agent, d dataset.Dataset) {
	e = controltest.New(t)
	tested(e)
	a = e.NewAgent("alpha")
	return e, a, a.MustCreate("db@tested")
}

// verifications lets time pass in steps, and makes the backups that are due. It returns the verifications that wait for
// the agent at the end.
func verifications(e *controltest.Control, a *controltest.Agent, d, step time.Duration) (open []dataset.Operation) {
	e.Helper()
	for end := e.Clock.Now().Add(d); e.Clock.Now().Before(end); {
		e.AdvanceAndRun(step)
		open = nil
		for _, op := range a.OpenOperations() {
			switch op.Kind {
			case dataset.OpBackup:
				finishBackup(a, op)
			case dataset.OpVerify:
				open = append(open, op)
			}
		}
	}
	return open
}

// wantVerification waits for the verification of a dataset, at most for a time, and returns it.
func wantVerification(e *controltest.Control, a *controltest.Agent, most time.Duration, d dataset.Dataset,
	when string) dataset.Operation {
	e.Helper()
	for end := e.Clock.Now().Add(most); e.Clock.Now().Before(end); {
		open := verifications(e, a, 10*time.Minute, 10*time.Minute)
		if len(open) == 0 {
			continue
		}
		op, newest := open[0], backupsOf(e, d.ID).Newest
		if len(open) > 1 || !op.Scheduled || op.BackupOf != d.ID || op.Node != a.ID || op.Volume != d.Volume ||
			op.Repository != "offsite" || op.Backup != newest.ID || op.Check != checkProgram || op.DatasetID == d.ID {
			e.Fatalf("%s: got %+v, the newest backup is %+v", when, open, newest)
		}
		return op
	}
	e.Fatalf("%s: no verification within %s", when, most)
	return dataset.Operation{}
}

// endVerification reports the end of a verification: without a kind, that it was good.
func endVerification(a *controltest.Agent, op dataset.Operation, kind *dataset.Kind) {
	a.Helper()
	op.DatasetRecord = nil
	if op.Taken.IsZero() {
		op.Taken = op.Created // the newest backup
	}
	if kind != nil {
		op.Problem = dataset.ProblemOf(dataset.Errorf(kind, "table t1"))
	}
	a.MustCommit(op)
}

func verificationsOf(e *controltest.Control, id uuid.UUID) (v record.Verifications) {
	e.Helper()
	e.OK(record.NewTx(e.Ctx, e.Spy).Get(record.VerificationsKey(id), &v))
	return v
}

// volumeFindings returns the findings about volumes.
func volumeFindings(e *controltest.Control) string {
	e.Helper()
	h, err := e.ClusterHealth(e.Ctx)
	e.OK(err)
	var texts []string
	for _, f := range h.Findings {
		if strings.HasPrefix(f.Subject, "volume ") {
			texts = append(texts, f.Level+" "+f.Subject+": "+f.Text+" ["+f.Fix+"]")
		}
	}
	return strings.Join(texts, "\n")
}

// The newest backup is verified every week, on the home, as soon as there is one. After an outage, one verification
// makes up for all that were missed. A restart of control changes nothing.
func TestVerificationSchedule(t *testing.T) {
	e, a, d := newTested(t)
	a.MustCreate("plain@silver")
	e.AdvanceAndRun(30 * time.Hour) // the first backup is due
	op := a.OpenOperations()
	if len(op) != 1 || op[0].Kind != dataset.OpBackup {
		t.Fatalf("before the first backup: %+v", op)
	}
	finishBackup(a, op[0])
	endVerification(a, wantVerification(e, a, 26*time.Hour, d, "the first"), nil)
	for i := range 3 {
		if i == 1 {
			e.Restart()
		}
		if open := verifications(e, a, week-3*time.Hour, time.Hour); len(open) > 0 {
			t.Fatalf("within a week: %+v", open)
		}
		op := wantVerification(e, a, 5*time.Hour, d, fmt.Sprint("week ", i))
		if open := verifications(e, a, 2*week, 6*time.Hour); len(open) != 1 || open[0].ID != op.ID {
			t.Fatalf("while one runs: %+v", open)
		}
		endVerification(a, op, nil)
		if v := verificationsOf(e, d.ID); !v.Last.Equal(op.Created) || v.Running != uuid.Nil || v.Failures != 0 {
			t.Fatalf("got %+v", v)
		}
		op = wantVerification(e, a, time.Hour, d, "after a long one")
		endVerification(a, op, nil)
	}
	e.AdvanceAndRun(5 * week)
	open := verifications(e, a, time.Hour, 10*time.Minute) // of the last backup before the outage
	if len(open) != 1 || open[0].BackupOf != d.ID {
		t.Fatalf("after an outage: %+v", open)
	}
	endVerification(a, open[0], nil)
	if open := verifications(e, a, 24*time.Hour, time.Hour); len(open) > 0 {
		t.Errorf("after the one that made up: %+v", open)
	}
	before := e.Dump()[record.VerificationsKey(d.ID)]
	verifications(e, a, 24*time.Hour, time.Hour)
	if after := e.Dump()[record.VerificationsKey(d.ID)]; after != before {
		t.Error("a check wrote the record")
	}
	if len(e.Failures) != 0 {
		t.Errorf("%v", e.Failures)
	}
	e.CheckInvariants()
	a.MustDelete("db")
	e.AdvanceAndRun(time.Minute)
	if backups, _ := e.Housekeeper.BackupSchedules(e.Ctx); len(backups) != 0 {
		t.Errorf("after the removal of the volume: %+v", backups)
	}
}

// A volume that gets a profile with verifications, or with more of them, is verified within a day. What would have been
// due before does not count as late. A profile with another size is applied by a
// resize.
func TestVerificationsAreAddedLater(t *testing.T) {
	profile := func(e *controltest.Control, name string, every time.Duration, size dataset.Size) {
		p := e.ProfileSet.ByName["tested"]
		p.Name, p.Revision, p.Size = name, "r1-"+name, size
		p.Backup.Verify.Every = dataset.Duration(every)
		if every == 0 {
			p.Backup.Verify = dataset.Verification{}
		}
		e.ProfileSet.ByName[name] = p
	}
	for _, c := range []struct {
		name   string
		before time.Duration // between two verifications; 0: none
		grows  bool
		again  bool // it had verifications before the profile "before"
	}{
		{"new", 0, false, false}, {"new and larger", 0, true, false}, {"more often", 90 * 24 * time.Hour, false, false},
		{"again", 0, false, true},
	} {
		t.Run(c.name, func(t *testing.T) {
			e := controltest.New(t)
			tested(e)
			size := e.ProfileSet.ByName["tested"].Size
			profile(e, "before", c.before, size)
			if c.grows {
				size += 1 << 30
			}
			profile(e, "after", week, size)
			a := e.NewAgent("alpha")
			first := "before"
			if c.again {
				first = "after"
			}
			const volumes = 5
			var all []dataset.Dataset
			for i := range volumes {
				all = append(all, a.MustCreate(fmt.Sprintf("v%d@%s", i, first)))
			}
			verify := func(d time.Duration) (times map[uuid.UUID]time.Time) {
				times = map[uuid.UUID]time.Time{}
				for end := e.Clock.Now().Add(d); e.Clock.Now().Before(end); {
					for _, op := range verifications(e, a, 30*time.Minute, 30*time.Minute) {
						times[op.BackupOf] = op.Created
						endVerification(a, op, nil)
					}
				}
				return times
			}
			change := func(to string) {
				for _, d := range all {
					op := *e.MustSubmit(api.Request{ID: uuid.New(), Kind: dataset.OpUpdate, Volume: d.Volume, Profile: to}).Operation
					if (op.Kind == dataset.OpResize) != c.grows {
						t.Fatalf("got %s", op.Kind)
					}
					if c.grows {
						a.MustCommit(op)
					}
				}
			}
			verify(50 * time.Hour)
			if c.again {
				change("before")
			}
			verifications(e, a, 60*24*time.Hour, 12*time.Hour)
			if got := volumeFindings(e); got != "" {
				t.Fatalf("before the change: %s", got)
			}
			change("after")
			if got := verify(30 * time.Minute); len(got) == volumes {
				t.Error("all are verified at once")
			}
			e.Restart()
			e.Round()
			if got := volumeFindings(e); got != "" {
				t.Errorf("after the change: %s", got)
			}
			for _, d := range all {
				if v, err := e.Volume(e.Ctx, d.Volume); err != nil || v.Backups.Verify.Next.Before(e.Clock.Now().Add(-time.Hour)) {
					t.Errorf("got %+v, %v", v.Backups.Verify, err)
				}
			}
			before := len(verify(30 * time.Minute))
			if got := len(verify(24 * time.Hour)); got+before < volumes-1 {
				t.Errorf("%d volumes were verified within a day, want %d", got+before, volumes)
			}
			if got := verify(5 * 24 * time.Hour); len(got) != 0 {
				t.Errorf("again within a week: %v", got)
			}
			if got := verify(3 * 24 * time.Hour); len(got) != volumes {
				t.Errorf("%d volumes were verified in the next week, want %d", len(got), volumes)
			}
			if len(e.Failures) != 0 {
				t.Errorf("%v", e.Failures)
			}
			e.CheckInvariants()
		})
	}
}

// A host gets one scheduled verification at a time, and each volume gets its turn.
func TestOneScheduledVerificationOfAHost(t *testing.T) {
	e := controltest.New(t)
	tested(e)
	a := e.NewAgent("alpha")
	const volumes = 12
	for i := range volumes {
		a.MustCreate(fmt.Sprintf("v%d@tested", i))
	}
	verifications(e, a, 30*time.Hour, 30*time.Hour)
	verified := map[uuid.UUID]bool{}
	for range 30 * 6 {
		open := verifications(e, a, 10*time.Minute, 10*time.Minute)
		if len(open) > 1 {
			t.Fatalf("got %d at once", len(open))
		}
		for _, op := range open {
			verified[op.BackupOf] = true
			endVerification(a, op, nil)
		}
	}
	if len(verified) != volumes {
		t.Errorf("%d volumes were verified, want %d", len(verified), volumes)
	}
	e.CheckInvariants()
}

// The new home verifies if the former one is lost during a verification.
func TestNewHomeContinuesVerifications(t *testing.T) {
	e := controltest.New(t)
	tested(e)
	a, b := e.NewAgent("alpha"), e.NewAgent("beta")
	a.MustRegister("alpha")
	b.MustRegister("beta")
	d := a.MustCreate("db@tested")
	verifications(e, a, 30*time.Hour, 30*time.Hour)
	op := wantVerification(e, a, 26*time.Hour, d, "the first")
	e.MustMove("db", a, b, "beta")
	if open := verifications(e, b, time.Hour, 10*time.Minute); len(open) > 0 {
		t.Fatalf("while the former home verifies: %+v", open)
	}
	markUnreachable(e, a.ID)
	again := wantVerification(e, b, time.Hour, d, "while the former home is unreachable")
	if err := a.TryCommit(op); !errors.Is(err, dataset.ErrCancelled) {
		t.Errorf("the former home reports: got %v, want that it was cancelled", err)
	}
	endVerification(b, again, nil)
	if v := verificationsOf(e, d.ID); !v.Last.Equal(again.Created) {
		t.Errorf("got %+v", v)
	}
}

// A good verification that a clock recorded that was ahead does not hide that later ones fail.
func TestVerificationsAfterClockWasAhead(t *testing.T) {
	e, a, d := newTested(t)
	const ahead = 100 * week
	e.Clock.Advance(ahead)
	endVerification(a, wantVerification(e, a, 2*week, d, "while the clock is ahead"), nil)
	e.Clock.Advance(-ahead)
	for range 10 {
		for _, op := range verifications(e, a, 24*time.Hour, time.Hour) {
			endVerification(a, op, dataset.ErrNoSpace)
		}
	}
	if got := volumeFindings(e); !strings.Contains(got, "verification of its backups is") {
		t.Errorf("got %q", got)
	}
}

// Only control itself may request a scheduled verification, of the newest backup, with the program of the profile.
func TestScheduledVerificationsAreRequestedByControl(t *testing.T) {
	e, a, d := newTested(t)
	a.MustRegister("alpha")
	a.MustCreate("plain@silver")
	req := api.Request{Kind: dataset.OpVerify, Volume: "db", Repository: "offsite", Backup: strings.Repeat("0f", 32), Check: checkProgram, Scheduled: true}
	controltest.Refused(t, a.TrySubmit(req), dataset.ErrConflict, "a newer one was made meanwhile")
	e.AdvanceAndRun(30 * time.Hour)
	for _, op := range a.OpenOperations() {
		req.Backup = finishBackup(a, op)
	}
	for _, p := range []api.Principal{
		{Identity: controltest.NodeIdentity("alpha", a.ID)}, {Local: true, From: "uid 0"},
	} {
		_, err := e.Submit(api.WithPrincipal(e.Ctx, p), req)
		controltest.Refused(t, err, dataset.ErrForbidden, "may not request a verification on schedule for volume db")
	}
	other := req
	other.Check = ""
	controltest.Refused(t, a.TrySubmit(other), dataset.ErrConflict, "its profile has no such schedule")
	if op := *e.MustSubmit(req).Operation; op.BackupOf != d.ID {
		t.Errorf("got %+v", op)
	}
	controltest.Refused(t, a.TrySubmit(req), dataset.ErrConflict, "another one runs (operation ")
	other.Volume = "plain"
	controltest.Refused(t, a.TrySubmit(other), dataset.ErrConflict, "its profile has no such schedule")
	e.CheckInvariants()
}

// A verification by hand is recorded if the backup is of the recorded volume with this name.
func TestVerificationByHandIsRecorded(t *testing.T) {
	e, a := controltest.OneNode(t)
	a.MustRegister("alpha")
	d := a.MustCreate("db@silver")
	controltest.AddRepository(e, "offsite")
	for i, c := range []struct {
		kind *dataset.Kind
		of   uuid.UUID // as the agent reads it
		want int
	}{
		{nil, d.ID, 1}, {nil, d.ID, 2}, {dataset.ErrCorrupt, d.ID, 3}, {dataset.ErrNoSpace, d.ID, 3},
		{nil, uuid.Nil, 3}, {dataset.ErrNotFound, uuid.Nil, 3},
	} {
		op := *e.MustSubmit(api.Request{
			Kind: dataset.OpVerify, Volume: "db@gold", Repository: "offsite", Backup: strings.Repeat(fmt.Sprintf("%02x", i), 32),
		}).Operation
		op.BackupOf = c.of
		endVerification(a, op, c.kind)
		if v := verificationsOf(e, d.ID); len(v.Results) != c.want {
			t.Errorf("%d: got %+v", i, v.Results)
		}
	}
	last := verificationsOf(e, d.ID).Results
	if !last[2].Failed || last[0].Failed || last[0].At.IsZero() {
		t.Errorf("got %+v", last)
	}
	e.CheckInvariants()
}

// A late verification that cannot be requested is reported with the reason.
func TestVerificationThatCannotBeRequested(t *testing.T) {
	e, a, d := newTested(t)
	verifications(e, a, 30*time.Hour, 30*time.Hour)
	endVerification(a, wantVerification(e, a, 26*time.Hour, d, "the first"), nil)
	verifications(e, a, time.Hour, 10*time.Minute)
	b := backupsOf(e, d.ID)
	was := b.Newest
	b.Newest.Repository = "gone" // as if the profile had named another repository, which was removed
	put := func(b record.Backups) {
		t.Helper()
		e.OK(e.Ledger.Update(e.Ctx, func(t *record.Tx) error { return t.Put(record.BackupsKey(d.ID), b) }))
	}
	put(b)
	e.AdvanceAndRun(2 * week)
	const missing = "the next one cannot be requested: repository gone, which has the newest backup, is not recorded"
	if got := volumeFindings(e); !strings.Contains(got, missing) {
		t.Errorf("without the repository: %q", got)
	}
	e.Restart() // a service that has not seen all volumes reads the records
	if got := volumeFindings(e); !strings.Contains(got, missing) {
		t.Errorf("without the repository, from the records: %q", got)
	}
	b.Newest = was
	put(b)
	e.OK(e.Spy.Txn(e.Ctx, nil, spoilt(record.RepositoryKey("offsite"), "{")))
	e.AdvanceAndRun(time.Minute)
	if got := volumeFindings(e); !strings.Contains(got, "; the next one cannot be requested: ") || !strings.Contains(got, "damaged") {
		t.Errorf("with a damaged record of the repository: %q", got)
	}
}

// A backup that is not usable is reported at once, and verified again. Another failure is reported when the verification
// is late. A good verification that a user requested ends the warning, if it used the same program.
func TestFailedVerification(t *testing.T) {
	e, a, d := newTested(t)
	verifications(e, a, 30*time.Hour, 30*time.Hour)
	var waits []time.Duration
	for i := range 7 {
		op := wantVerification(e, a, 31*time.Hour, d, fmt.Sprint("try ", i))
		endVerification(a, op, dataset.ErrCorrupt)
		e.AdvanceAndRun(time.Minute)
		want := fmt.Sprintf("error volume db: its backup %s in offsite failed a verification: table t1 [drover repository "+
			"check offsite --read-data 100, then, on the home: drover backup create db --to offsite, and drover backup "+
			"verify db --repository offsite --check %s]", op.Backup[:8], checkProgram)
		if got := volumeFindings(e); got != want {
			t.Fatalf("try %d: got %q, want %q", i, got, want)
		}
		if s, _ := e.Housekeeper.BackupSchedules(e.Ctx); s[0].Verified == nil || s[0].Verified.Failures != i+1 {
			t.Fatalf("try %d: got %+v", i, s[0].Verified)
		}
		failed := e.Clock.Now()
		for len(verifications(e, a, 10*time.Minute, 10*time.Minute)) == 0 {
			if e.Clock.Now().Sub(failed) > 31*time.Hour {
				t.Fatalf("failure %d: not tried again", i)
			}
		}
		waits = append(waits, e.Clock.Now().Sub(failed))
	}
	offline := verifications(e, a, time.Minute, time.Minute)[0]
	offline.Problem = dataset.ProblemOf(dataset.Errorf(dataset.ErrOffline, "the repository does not answer"))
	endVerification(a, offline, nil)
	e.AdvanceAndRun(time.Minute)
	if got := volumeFindings(e); !strings.Contains(got, "failed a verification: table t1 [") {
		t.Errorf("after a failure that says nothing about the backup: %q", got)
	}
	wantVerification(e, a, 31*time.Hour, d, "after that failure")
	if waits[0] > 90*time.Minute || waits[6] < 24*time.Hour {
		t.Errorf("got %v, want growing times from an hour to a day", waits)
	}
	open := verifications(e, a, time.Minute, time.Minute)
	e.OK(e.CancelOperation(e.Ctx, open[0].ID.String()))
	newest := backupsOf(e, d.ID).Newest
	byHand := func(check string) {
		t.Helper()
		op := *e.MustSubmit(api.Request{
			Kind: dataset.OpVerify, Volume: "db@silver", Repository: "offsite", Backup: newest.ID, Check: check,
		}).Operation
		if op.BackupOf != d.ID || op.Scheduled {
			t.Fatalf("got %+v", op)
		}
		endVerification(a, op, nil)
		e.AdvanceAndRun(11 * time.Minute)
	}
	byHand("")
	if got := volumeFindings(e); !strings.Contains(got, "failed a verification") {
		t.Errorf("after a verification without the program: %q", got)
	}
	byHand(checkProgram)
	if got := volumeFindings(e); got != "" {
		t.Errorf("after a good verification: %q", got)
	}
	v, err := e.Volume(e.Ctx, "db")
	require.NoError(t, err)
	last := v.Verified[len(v.Verified)-1]
	if last.Backup != newest.ID || last.Failed || v.Backups.Newest != newest.ID || last.Check != checkProgram || v.Backups.Verify.Failures != 0 ||
		!v.Verified[0].Failed {
		t.Errorf("got %+v, %+v", v.Verified, v.Backups.Verify)
	}
	e.CheckInvariants()
}

// A verification that fails for another reason than the backup is reported once it is late.
func TestLateVerification(t *testing.T) {
	e, a, d := newTested(t)
	verifications(e, a, 30*time.Hour, 30*time.Hour)
	op := wantVerification(e, a, 26*time.Hour, d, "the first")
	endVerification(a, op, dataset.ErrNoSpace)
	verifications(e, a, time.Hour, 10*time.Minute)
	if got := volumeFindings(e); got != "" {
		t.Errorf("within the grace: %q", got)
	}
	verifications(e, a, 3*24*time.Hour, time.Hour)
	got := volumeFindings(e)
	for _, part := range []string{"warning volume db: the verification of its backups is ", " late, and there is no good one; failed attempts: 1, the last one because table t1"} {
		if !strings.Contains(got, part) {
			t.Errorf("got %q, want %q in it", got, part)
		}
	}
	if s, _ := e.Housekeeper.BackupSchedules(e.Ctx); s[0].Verified.Overdue < 3*24*time.Hour || s[0].Verified.Age < 4*24*time.Hour {
		t.Errorf("got %+v", s[0].Verified)
	}
	if v := verificationsOf(e, d.ID); len(v.Results) != 0 {
		t.Errorf("nothing is known about the backup, and %+v is recorded", v)
	}
}

// A damaged backup of a volume without scheduled verifications is an error until that backup is verified again without
// an error, or until a later backup of the volume is good.
func TestDamagedBackupIsReportedUntilAGoodOne(t *testing.T) {
	e := controltest.New(t)
	tested(e)
	a := e.NewAgent("alpha")
	d := a.MustCreate("db@silver")
	verify := func(backup string, kind *dataset.Kind) {
		t.Helper()
		op := *e.MustSubmit(api.Request{
			Kind: dataset.OpVerify, Volume: "db@silver", Repository: "offsite", Backup: backup,
		}).Operation
		if op.Taken = e.Clock.Now(); strings.HasPrefix(backup, "cc") {
			op.Taken = controltest.Start
		}
		endVerification(a, op, kind)
	}
	bad, other := strings.Repeat("b", 64), strings.Repeat("c", 64)
	want := func(when, want string) {
		t.Helper()
		e.AdvanceAndRun(48 * time.Hour) // control has forgotten the operations
		if got := volumeFindings(e); got != want {
			t.Errorf("%s: got %q, want %q", when, got, want)
		}
	}
	const text = "error volume db: its backup bbbbbbbb in offsite failed a verification: table t1 [drover repository " +
		"check offsite --read-data 100, then, on the home: drover backup create db --to offsite, and drover backup " +
		"verify db --repository offsite]"
	verify(bad, dataset.ErrNoSpace)
	want("after a failure that says nothing about the backup", "")
	verify(bad, dataset.ErrCorrupt)
	want("after the verification", text)
	e.Restart()
	verify(other, nil)
	verify(bad, dataset.ErrOffline)
	want("after a good verification of another backup, and one without a result", text)
	verify(bad, nil)
	want("after a good verification", "")
	verify(bad, dataset.ErrNotFound)
	want("again", text)
	made := finishBackup(a, *e.MustSubmit(api.Request{Kind: dataset.OpBackup, Volume: "db", Repository: "offsite"}).Operation)
	want("after a backup, which can have the same damage", text)
	verify(made, nil)
	want("after its verification", "")
	verify(bad, dataset.ErrCorrupt)
	a.MustDelete("db")
	e.MustSubmit(api.Request{Kind: dataset.OpPurge, Volume: d.ID.String()})
	a.MustPurge(d)
	e.CheckInvariants()
	if _, err := e.Spy.Get(e.Ctx, record.DamagedKey(d.ID)); err == nil {
		t.Error("the record outlives the dataset")
	}
}
