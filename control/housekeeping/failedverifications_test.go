package housekeeping_test

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/droverhq/drover/control/api"
	"github.com/droverhq/drover/control/controltest"
	"github.com/droverhq/drover/control/record"
	"github.com/droverhq/drover/dataset"
)

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
		if _, err := e.Ledger.Update(e.Ctx, func(t *record.Tx) error { return t.Put(record.BackupsKey(d.ID), b) }); err != nil {
			e.Fatalf("%v", err)
		}
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
	if _, err := e.Spy.Txn(e.Ctx, nil, spoilt(record.RepositoryKey("offsite"), "{")); err != nil {
		t.Fatal(err)
	}
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
		want := fmt.Sprintf("warning volume db: its backup %s failed a verification: table t1; this warning ends with a "+
			"good verification of the newest scheduled backup [drover volume inspect db]", op.Backup[:8])
		if got := volumeFindings(e); got != want {
			t.Fatalf("try %d: got %q, want %q", i, got, want)
		}
		if _, s := e.Schedules(); s[0].Verified == nil || s[0].Verified.Failures != i+1 {
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
	if got := volumeFindings(e); !strings.Contains(got, "failed a verification: table t1; this") {
		t.Errorf("after a failure that says nothing about the backup: %q", got)
	}
	wantVerification(e, a, 31*time.Hour, d, "after that failure")
	if waits[0] > 90*time.Minute || waits[6] < 24*time.Hour {
		t.Errorf("got %v, want growing times from an hour to a day", waits)
	}
	open := verifications(e, a, time.Minute, time.Minute)
	if _, err := e.CancelOperation(e.Ctx, open[0].ID.String()); err != nil {
		t.Fatal(err)
	}
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
	if err != nil {
		t.Fatal(err)
	}
	last := v.Verified[len(v.Verified)-1]
	if last.Backup != newest.ID || last.Failed || last.Check != checkProgram || v.Backups.Verify.Failures != 0 ||
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
	if _, s := e.Schedules(); s[0].Verified.Overdue < 3*24*time.Hour || s[0].Verified.Age < 4*24*time.Hour {
		t.Errorf("got %+v", s[0].Verified)
	}
	if v := verificationsOf(e, d.ID); v.Unusable != "" || len(v.Results) != 0 {
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
		endVerification(a, *e.MustSubmit(api.Request{
			Kind: dataset.OpVerify, Volume: "db@silver", Repository: "offsite", Backup: backup,
		}).Operation, kind)
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
		"check offsite, then drover backup create db]"
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
	finishBackup(a, *e.MustSubmit(api.Request{Kind: dataset.OpBackup, Volume: "db", Repository: "offsite"}).Operation)
	want("after a good backup", "")
	verify(bad, dataset.ErrCorrupt)
	a.MustDelete("db")
	e.MustSubmit(api.Request{Kind: dataset.OpPurge, Volume: d.ID.String()})
	a.MustPurge(d)
	e.CheckInvariants()
	if _, err := e.Spy.Get(e.Ctx, record.DamagedKey(d.ID)); err == nil {
		t.Error("the record outlives the dataset")
	}
}
