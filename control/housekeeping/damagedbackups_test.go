package housekeeping_test

import (
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/droverhq/drover/control/api"
	"github.com/droverhq/drover/control/controltest"
	"github.com/droverhq/drover/control/record"
	"github.com/droverhq/drover/dataset"
)

// Only the home of a volume can end the record of a damaged backup, because another node could lie about it: with a good
// verification of that backup, or of one with later content, in the same repository, with the same check program.
func TestDamageEndsWithProof(t *testing.T) {
	for _, c := range []struct{ profile, steps, damagedIn string }{
		{"silver", "made 1; bad 1", "offsite"},
		{"silver", "made 1; bad 1; made 2", "offsite"}, // it has the same damage
		{"silver", "made 1; bad 1; made 2; good 2", ""},
		{"silver", "made 1; bad 1; good 1", ""},
		{"silver", "made 1; bad 1; good 1 beta", "offsite"},
		{"silver", "made 1; made 2; bad 2; good 1", "offsite"},
		{"silver", "made 1; made 2; bad 2; bad 1; made 3; good 3", ""},
		{"silver", "made 1; bad 1; made 2; bad 2; good 1", "offsite"},
		{"silver", "made 1; bad 1; made 2; bad 2; made 3; good 3", ""},
		{"silver", "made 1; bad 1; made 2; made 3; bad 3; good 2", "offsite"},
		{"silver", "made 1; bad 1; snapshot 2; good 2", "offsite"}, // it can be older
		{"silver", "made 1; bad 1; copy 2; good 2", "offsite"},
		{"silver", "made 1; copy 2; bad 2; bad 1", "offsite second"},
		{"silver", "made 1; copy 2; bad 2; bad 1; good 1", "second"},
		{"silver", "made 1; copy 2; bad 2; bad 1; remove second", "offsite"},
		{"silver", "made 1; bad 1; bad 1; made 2; bad 1; good 2", ""},
		{"silver", "made 1; bad 1; new 2; good 2", ""},
		{"silver", "made 1; future 2; bad 1; good 2", "offsite"}, // the clock was ahead
		{"silver", "made 1; refused 1 check", ""},                // by a program that is not that of the profile
		{"silver", "made 1; bad 1 check; good 1", ""},
		{"tested", "made 1; refused 1 other", ""},
		{"tested", "made 1; refused 1 check; good 1", "offsite"},
		{"tested", "made 1; refused 1 check; made 2; good 2 other", "offsite"},
		{"tested", "made 1; refused 1 check; made 2; good 2 check", ""},
		{"tested", "made 1; bad 1; made 2; good 2", "offsite"},
	} {
		e := controltest.New(t)
		tested(e)
		controltest.AddRepository(e, "second")
		a := e.NewAgent("alpha")
		d := a.MustCreate("db@" + c.profile)
		agents := map[string]*controltest.Agent{"alpha": a, "beta": e.NewAgent("beta")}
		a.MustCommit(*e.MustSubmit(api.Request{Kind: dataset.OpSnapshot, Volume: "db", Name: "old"}).Operation)
		made, in, taken := map[string]string{}, map[string]string{}, map[string]time.Time{"old": e.Clock.Now()}
		for step := range strings.SplitSeq(c.steps, "; ") {
			e.Clock.Advance(time.Minute)
			w := strings.Fields(step)
			switch w[0] {
			case "remove":
				e.OK(e.RemoveRepository(e.Ctx, w[1], true))
			case "made", "copy", "snapshot", "new", "future":
				req := api.Request{Kind: dataset.OpBackup, Volume: "db", Repository: "offsite"}
				if w[0] == "copy" {
					req.Repository = "second"
				} else if w[0] == "snapshot" {
					req.Snapshot = "old"
				} else if w[0] == "new" {
					req.Snapshot = "new"
					a.MustCommit(*e.MustSubmit(api.Request{Kind: dataset.OpSnapshot, Volume: "db", Name: "new"}).Operation)
				}
				taken[w[1]] = e.Clock.Now()
				if w[0] == "future" {
					taken[w[1]] = e.Clock.Now().Add(time.Hour)
				} else if w[0] == "snapshot" {
					taken[w[1]] = taken["old"]
				}
				made[w[1]], in[w[1]] = finishBackup(a, *e.MustSubmit(req).Operation), req.Repository
			default:
				req := api.Request{
					Kind: dataset.OpVerify, Volume: "db@" + c.profile, Repository: in[w[1]], Backup: made[w[1]],
				}
				by, kind := a, map[string]*dataset.Kind{"bad": dataset.ErrCorrupt, "refused": dataset.ErrCorrupt}[w[0]]
				number, refused := w[1], w[0] == "refused"
				if w = w[2:]; slices.Contains(w, "check") {
					req.Check = checkProgram
				} else if slices.Contains(w, "other") {
					req.Check = checkProgram + "-other"
				} else if len(w) > 0 {
					by = agents[w[0]]
				}
				who := api.Principal{Identity: controltest.NodeIdentity("", by.ID)}
				out, err := e.Submit(api.WithPrincipal(e.Ctx, who), req)
				e.OK(err)
				out.Operation.Taken, out.Operation.Refused = taken[number], refused
				endVerification(by, *out.Operation, kind)
			}
		}
		var got []string
		for _, repository := range []string{"offsite", "second"} {
			damaged, err := record.IsDamaged(record.NewTx(e.Ctx, e.Spy), d.ID, repository)
			e.OK(err)
			if damaged {
				got = append(got, repository)
			}
		}
		if got := strings.Join(got, " "); got != c.damagedIn {
			t.Errorf("%s: damaged in %q, want %q", c.steps, got, c.damagedIn)
		}
		for _, repository := range got {
			if found := volumeFindings(e); !strings.Contains(found, " in "+repository+" failed") {
				t.Errorf("%s: not reported: %s", c.steps, found)
			}
		}
	}
}

// While a verification has found a backup damaged, no older one expires: it could be the last good one.
func TestNothingExpiresWhileBackupIsDamaged(t *testing.T) {
	e := controltest.New(t)
	tested(e)
	p := e.ProfileSet.ByName["tested"]
	p.Backup.Keep = dataset.Keep{Daily: 3}
	p.Backup.Verify.Every, p.Backup.Verify.Check = dataset.Duration(24*time.Hour), ""
	e.ProfileSet.ByName["tested"] = p
	a := e.NewAgent("alpha")
	a.MustCreate("db@tested")
	verified, expired := 0, 0
	run := func(days int, kind *dataset.Kind) {
		t.Helper()
		verified, expired = 0, 0
		for range days * 24 {
			e.AdvanceAndRun(time.Hour)
			for _, op := range a.OpenOperations() {
				if op.Kind == dataset.OpVerify {
					verified++
					endVerification(a, op, kind)
				} else {
					op.Backup = strings.ReplaceAll(op.ID.String()+op.ID.String(), "-", "")
					expired += len(a.MustCommit(op).Expired)
				}
			}
		}
	}
	run(2, nil)
	run(10, dataset.ErrCorrupt)
	if verified == 0 || expired > 0 {
		t.Errorf("%d verifications found damage, and %d backups expired", verified, expired)
	}
	if run(3, nil); expired == 0 {
		t.Error("nothing expires after a good verification")
	}
}
