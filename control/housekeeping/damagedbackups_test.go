package housekeeping_test

import (
	"strings"
	"testing"
	"time"

	"github.com/droverhq/drover/control/api"
	"github.com/droverhq/drover/control/controltest"
	"github.com/droverhq/drover/control/record"
	"github.com/droverhq/drover/dataset"
)

// Only the home of a volume can end the warning about a damaged backup, because another node could lie about it.
func TestOnlyHomeEndsDamage(t *testing.T) {
	e := controltest.New(t)
	tested(e)
	a := e.NewAgent("alpha")
	d := a.MustCreate("db@tested")
	b := e.NewAgent("beta")
	verifications(e, a, 30*time.Hour, 30*time.Hour)
	endVerification(a, wantVerification(e, a, 26*time.Hour, d, "the first"), dataset.ErrCorrupt)
	for _, by := range []*controltest.Agent{b, a} {
		out, err := e.Submit(api.WithPrincipal(e.Ctx, api.Principal{Identity: controltest.NodeIdentity("", by.ID)}), api.Request{
			Kind: dataset.OpVerify, Volume: "db@silver", Repository: "offsite", Backup: backupsOf(e, d.ID).Newest.ID,
			Check: checkProgram,
		})
		e.OK(err)
		endVerification(by, *out.Operation, nil)
		e.AdvanceAndRun(11 * time.Minute)
		if damaged, err := record.IsDamaged(record.NewTx(e.Ctx, e.Spy), d); err != nil || damaged == (by == a) {
			t.Errorf("after a good verification (by the home: %t), damaged: %t, %v", by == a, damaged, err)
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
