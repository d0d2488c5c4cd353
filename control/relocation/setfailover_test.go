package relocation_test

import (
	"testing"
	"time"

	"github.com/google/uuid"

	"github.com/droverhq/drover/control/api"
	"github.com/droverhq/drover/control/controltest"
	"github.com/droverhq/drover/control/membership"
	"github.com/droverhq/drover/control/record"
	"github.com/droverhq/drover/dataset"
)

func setProfile(volume, profile string) api.Request {
	return api.Request{ID: uuid.New(), Kind: dataset.OpUpdate, Volume: volume, Profile: profile}
}

// newManual returns the cluster of NewLostHome whose volume has failover manual.
func newManual(t *testing.T) *controltest.LostHome {
	l := controltest.NewLostHome(t, 1)
	safe := l.ProfileSet.ByName["auto"]
	safe.Name, safe.Revision, safe.Failover = "safe", "r1-safe", dataset.Failover{}
	l.ProfileSet.ByName["safe"] = safe
	l.MustSubmit(setProfile("db", "safe"))
	l.Dataset = l.MustVolume("db").Dataset
	return l
}

// A volume gets failover auto once its home has reported that its lease is bounded. It gets failover manual at once.
func TestI1SetProfileChangesFailover(t *testing.T) {
	l := newManual(t)
	if d := l.Dataset; d.Profile.Name != "safe" || d.Profile.Failover.Auto || d.Epoch != 1 || len(l.Alpha.MustSync(0).Operations) != 0 {
		t.Fatalf("%+v", d)
	}
	out := l.MustSubmit(setProfile("db", "auto"))
	if out.Operation == nil || out.Operation.State != dataset.OpPending || out.Operation.Node != l.Alpha.ID {
		t.Fatalf("%+v", out.Operation)
	}
	if d := l.MustVolume("db").Dataset; d.Profile.Failover.Auto {
		t.Errorf("it fails over before the home has bounded its lease: %+v", d)
	}
	l.Replicas.EndSession(l.Alpha)
	_, err := l.AskFailover(l.Service, "beta")
	controltest.Refused(t, err, dataset.ErrOffline, "is on node alpha, which is unreachable")
	l.RestartAgent(l.Alpha, "alpha")
	l.Alpha.DoWork()
	d := l.MustVolume("db").Dataset
	if d.Profile.Name != "auto" || !d.Profile.Failover.Auto || d.Epoch != 1 || d.Home != l.Alpha.ID || len(d.Copies) != 2 {
		t.Errorf("%+v", d)
	}
	if op := l.MustOperation(out.Operation.ID); op.State != dataset.OpDone {
		t.Errorf("%+v", op)
	}
	l.Alpha.ReportGuard()
	l.Wait(membership.LossCheckInterval, l.Alpha, l.Beta, l.Gamma) // as after a check just now
	l.MustFailOver()
}

// A profile that changes the failover and adds verifications of the backups also records since when these apply.
func TestSetProfileChangesFailoverAndVerifications(t *testing.T) {
	l := newManual(t)
	controltest.AddRepository(l.Control, "offsite")
	p := l.ProfileSet.ByName["auto"]
	p.Name, p.Revision = "verified", "r1-verified"
	p.Backup = dataset.Backups{
		To: "offsite", Schedule: "@daily", Verify: dataset.Verification{Every: dataset.Duration(24 * time.Hour), Restore: true},
	}
	l.ProfileSet.ByName[p.Name] = p
	l.MustSubmit(setProfile("db", p.Name))
	l.Alpha.DoWork()
	var v record.Verifications
	_, err := record.NewTx(l.Ctx, l.Ledger.Store).Get(record.VerificationsKey(l.Dataset.ID), &v)
	if d := l.MustVolume("db").Dataset; err != nil || !d.Profile.Backup.Verify.Restore || !v.Since.Equal(l.Clock.Now()) {
		t.Errorf("got %+v, %+v, %v", d.Profile, v, err)
	}
}

// The report of the home is refused if it does not know all copies: it would not ask their nodes for promises. It is
// refused as well if the volume has changed since the plan, or if control planned no such change.
func TestI1SetProfileCommitIsChecked(t *testing.T) {
	for name, c := range map[string]struct {
		change func(l *controltest.LostHome, op *dataset.Operation)
		kind   *dataset.Kind
		text   string
	}{
		"a copy that the home does not know": {func(l *controltest.LostHome, op *dataset.Operation) {
			op.DatasetRecord.Copies = []uuid.UUID{l.Beta.ID}
		}, dataset.ErrConflict, "does not know all of its copies"},
		"a move": {func(l *controltest.LostHome, _ *dataset.Operation) {
			l.MustSubmit(controltest.Move("db", "beta"))
		}, dataset.ErrConflict, "while it is being moved"},
		"another profile": {func(l *controltest.LostHome, _ *dataset.Operation) {
			l.MustSubmit(setProfile("db", "bronze"))
		}, dataset.ErrConflict, "was changed meanwhile"},
		"another operation": {func(_ *controltest.LostHome, op *dataset.Operation) {
			op.ID = uuid.New()
		}, dataset.ErrInvalid, "has planned no such update"},
	} {
		t.Run(name, func(t *testing.T) {
			l := newManual(t)
			op := *l.MustSubmit(setProfile("db", "auto")).Operation
			c.change(l, &op)
			controltest.Refused(t, l.Alpha.TryCommit(op), c.kind, c.text)
			if d := l.MustVolume("db").Dataset; d.Profile.Failover.Auto {
				t.Errorf("%+v", d)
			}
		})
	}
}

// The failover of a volume does not change while it is moved, while its home is unreachable, or together with the size.
func TestSetProfileRefusesFailover(t *testing.T) {
	refused := func(l *controltest.LostHome, profile string, kind *dataset.Kind, parts ...string) {
		t.Helper()
		l.MustRefuse(setProfile("db", profile), kind, parts...)
	}
	l := newManual(t)
	large := l.ProfileSet.ByName["auto"]
	large.Name, large.Size = "large", 30*dataset.GiB
	l.ProfileSet.ByName["large"] = large
	refused(l, "large", dataset.ErrUnsupported, "cannot change at once (drover volume resize db 30GiB, then try again)")
	l.Replicas.EndSession(l.Alpha)
	refused(l, "auto", dataset.ErrOffline, "its home, node alpha, is unreachable")
	l.RestartAgent(l.Alpha, "alpha")
	l.Alpha.ReportGuard()
	l.MustSubmit(controltest.Move("db", "beta"))
	refused(l, "auto", dataset.ErrConflict, "while it is being moved")

	l = controltest.NewLostHome(t, 1)
	l.MustFailOver()
	refused(l, "bronze", dataset.ErrConflict, "while it is being moved")

	e := controltest.New(t)
	controltest.AddAutoFailover(e.ProfileSet, 1)
	e.NewAgent("alpha").MustCreate("db@silver")
	e.MustRefuse(setProfile("db", "auto"), dataset.ErrUnsupported, "profile auto has failover auto", "works alone")
}

// An automatic failover is not committed once the profile has failover manual, whichever service planned it.
func TestI1FailoverOfManualIsNotCommitted(t *testing.T) {
	l := controltest.NewLostHome(t, 1)
	op := l.MustFailOver()
	l.EditDataset(l.Dataset.ID, func(d *dataset.Dataset, _ *dataset.Lease) { d.Profile.Failover.Auto = false })
	controltest.Refused(t, l.Beta.TryCommit(op), dataset.ErrConflict, "has failover manual now")
	if d := l.MustVolume("db").Dataset; d.Home != l.Alpha.ID || d.Epoch != 1 {
		t.Errorf("%+v", d)
	}
}

// After the store was restored from a backup, no volume fails over automatically whose home has not reported since:
// the home may have the volume open with failover manual. A confirmation that the home is off, and a registration of
// the home, remove the doubt.
func TestI1RecoveredStoreDoubtsFailover(t *testing.T) {
	for name, heard := range map[string]bool{"the home reported": true, "the home was silent": false} {
		t.Run(name, func(t *testing.T) {
			l := controltest.NewLostHome(t, 1)
			rec := record.Recovery{ID: uuid.New(), Done: true}
			if heard {
				rec.ReportedNodes = []uuid.UUID{l.Alpha.ID}
			}
			l.OK(l.Ledger.Update(l.Ctx, func(t *record.Tx) error { return t.Put(record.RecoveryKey, rec) }))
			if heard {
				l.MustFailOver()
				return
			}
			l.Replicas.EndSession(l.Alpha)
			_, err := l.AskFailover(l.Service, "beta")
			controltest.Refused(t, err, dataset.ErrPending)
			l.Wait(l.Timing.Session, l.Beta, l.Gamma)
			_, err = l.AskFailover(l.Service, "beta")
			controltest.Refused(t, err, dataset.ErrOffline, "node alpha has not reported since the store was recovered", "drover node fence alpha")
			l.RestartAgent(l.Alpha, "alpha")
			l.Alpha.ReportGuard()
			l.Wait(membership.LossCheckInterval, l.Alpha, l.Beta, l.Gamma) // as after a check just now
			l.MustFailOver()
		})
	}
}

// A resize that gives a volume another profile with failover auto was planned before the volume got failover manual.
// It changes only the size: the home has released its lease from the bound.
func TestI1ResizeKeepsFailoverManual(t *testing.T) {
	l := controltest.NewLostHome(t, 1)
	safe, large := l.ProfileSet.ByName["auto"], l.ProfileSet.ByName["auto"]
	safe.Name, safe.Revision, safe.Failover = "safe", "r1-safe", dataset.Failover{}
	large.Name, large.Revision, large.Size = "large", "r1-large", 30*dataset.GiB
	l.ProfileSet.ByName["safe"], l.ProfileSet.ByName["large"] = safe, large
	op := *l.MustSubmit(setProfile("db", "large")).Operation
	if op.Kind != dataset.OpResize {
		t.Fatalf("%+v", op)
	}
	l.MustSubmit(setProfile("db", "safe"))
	l.Alpha.MustCommit(op)
	if d := l.MustVolume("db").Dataset; d.Size != 30*dataset.GiB || d.Profile.Name != "safe" || d.Profile.Failover.Auto {
		t.Errorf("%+v", d)
	}
}

// After the store was restored from a backup, a volume fails over only after a new confirmation that its home is fenced.
// A confirmation that is in the backup does not count, and an operator's change of the node's record does not either.
func TestI1RecoveredStoreDoubtsOldConfirmation(t *testing.T) {
	l := controltest.NewLostHome(t, 1)
	l.OK(l.Ledger.Update(l.Ctx, func(t *record.Tx) error {
		return t.Put(record.FencedKey(l.Alpha.ID), record.Fenced{By: "the backup"})
	}))
	l.OK(l.Ledger.Update(l.Ctx, func(t *record.Tx) error {
		return t.Put(record.RecoveryKey, record.Recovery{ID: uuid.New(), Done: true})
	}))
	l.Replicas.EndSession(l.Alpha)
	_, err := l.AskFailover(l.Service, "beta")
	controltest.Refused(t, err, dataset.ErrPending)
	l.Wait(l.Timing.Session, l.Beta, l.Gamma)
	l.OK(l.Cordon(l.Ctx, l.Alpha.ID, api.Cordoned{Cordoned: true}))
	_, err = l.AskFailover(l.Service, "beta")
	controltest.Refused(t, err, dataset.ErrOffline, "node alpha has not reported since the store was recovered")
	l.OK(l.Fence(l.Ctx, l.Alpha.ID, api.Fenced{Confirmed: true}))
	if op, err := l.AskFailover(l.Service, "beta"); err != nil || op == nil || op.OtherNode != l.Alpha.ID {
		t.Errorf("%+v, %v", op, err)
	}
}
