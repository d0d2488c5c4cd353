package membership_test

import (
	"encoding/pem"
	"testing"
	"time"

	"github.com/droverhq/drover/control"
	"github.com/droverhq/drover/control/controltest"
	"github.com/droverhq/drover/control/membership"
	"github.com/droverhq/drover/control/record"
	"github.com/droverhq/drover/dataset"
	"github.com/droverhq/drover/internal/pki"
)

// Another replica learns of the revocation within seconds, and keeps using the revocations it knows while the store
// is unavailable.
func TestRevokedElsewhere(t *testing.T) {
	e, ca := controltest.NewWithAuthority(t)
	bob := pki.Identity{Kind: pki.Operator, Role: pki.Worker, Name: "bob"}
	cert := controltest.Certificate(t, ca, bob, controltest.Start)
	if err := e.Revoked(bob, cert); err != nil {
		t.Fatal(err)
	}
	other, _ := control.Assemble(control.Deps{Store: e.Spy, Clock: e.Clock, Profiles: e.Deps.Profiles, Failed: e.Failed})
	defer other.Close()
	e.Clock.Advance(time.Second)
	if err := other.Admission.RevokeOperator(e.Ctx, "bob"); err != nil {
		t.Fatal(err)
	}
	controltest.Refused(t, other.Revoked(bob, cert), dataset.ErrForbidden, "the certificate of operator bob (operator) was revoked at 2026-11-18T12:00:01Z")
	if err := e.Revoked(bob, cert); err != nil {
		t.Error("heard too soon: each request asks the store:", err)
	}
	e.Clock.Advance(membership.RevocationsInterval)
	controltest.Refused(t, e.Revoked(bob, cert), dataset.ErrForbidden, "was revoked")
	if err := e.Revoked(pki.Identity{Kind: pki.Operator, Role: pki.Worker, Name: "eve"}, cert); err != nil {
		t.Error(err)
	}
	// A certificate that was issued earlier on a host whose clock is ahead is revoked as well.
	ahead := controltest.Certificate(t, ca, bob, controltest.Start.Add(pki.Skew))
	controltest.Refused(t, e.Revoked(bob, ahead), dataset.ErrForbidden, "with all that were issued until 2026-11-18T12:10:01Z, because clocks may differ")
	if err := e.Revoked(bob, controltest.Certificate(t, ca, bob, controltest.Start.Add(pki.Skew+2*time.Second))); err != nil {
		t.Error("a certificate that was made since:", err)
	}
	trust, err := e.Trust(e.Ctx)
	if block, _ := pem.Decode([]byte(trust.Roots)); err != nil || block == nil || trust.Cluster != ca.Cluster() || len(trust.Revoked) != 1 || trust.Revoked[0].Operator != "bob" {
		t.Errorf("%+v, %v", trust, err)
	}
	// Revocations without any further effect are removed with the next one.
	e.Clock.Advance(pki.OperatorLife + 2*time.Hour)
	if err := e.RevokeOperator(e.Ctx, "eve"); err != nil {
		t.Fatal(err)
	}
	if left, err := e.Spy.List(e.Ctx, record.RevokedPrefix, "", 0); err != nil || len(left) != 1 {
		t.Error(left, err)
	}
}
