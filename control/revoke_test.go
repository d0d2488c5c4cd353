package control

import (
	"encoding/pem"
	"testing"
	"time"

	"github.com/droverhq/drover/control/membership"
	"github.com/droverhq/drover/control/record"
	"github.com/droverhq/drover/dataset"
	"github.com/droverhq/drover/internal/pki"
)

// Another replica hears of it within seconds, and goes on with what it knew when the
// store is away.
func TestRevokedElsewhere(t *testing.T) {
	e, ca := newCluster(t)
	bob := pki.Identity{Kind: pki.Operator, Role: pki.Worker, Name: "bob"}
	cert := certificate(t, ca, bob, someday)
	if err := e.Revoked(bob, cert); err != nil {
		t.Fatal(err)
	}
	other, _ := Assemble(Deps{Store: e.spy, Clock: e.clock, Profiles: e.Deps.Profiles, Failed: e.Failed})
	defer other.Close()
	e.clock.Advance(time.Second)
	if err := other.Admission.RevokeOperator(e.ctx, "bob"); err != nil {
		t.Fatal(err)
	}
	refused(t, other.Revoked(bob, cert), dataset.ErrForbidden, "the certificate of operator bob (operator) was revoked at 2026-11-18T12:00:01Z")
	if err := e.Revoked(bob, cert); err != nil {
		t.Error("heard too soon: each request asks the store:", err)
	}
	e.clock.Advance(membership.RevokedEvery)
	refused(t, e.Revoked(bob, cert), dataset.ErrForbidden, "was revoked")
	if err := e.Revoked(pki.Identity{Kind: pki.Operator, Role: pki.Worker, Name: "eve"}, cert); err != nil {
		t.Error(err)
	}
	// One that was made before, on a host whose clock is ahead, is revoked as well.
	ahead := certificate(t, ca, bob, someday.Add(pki.Skew))
	refused(t, e.Revoked(bob, ahead), dataset.ErrForbidden, "with all that were made until 2026-11-18T12:10:01Z, as clocks may differ")
	if err := e.Revoked(bob, certificate(t, ca, bob, someday.Add(pki.Skew+2*time.Second))); err != nil {
		t.Error("a certificate that was made since:", err)
	}
	trust, err := e.Trust(e.ctx)
	if block, _ := pem.Decode([]byte(trust.Roots)); err != nil || block == nil || trust.Cluster != ca.Cluster() || len(trust.Revoked) != 1 || trust.Revoked[0].Operator != "bob" {
		t.Errorf("%+v, %v", trust, err)
	}
	// What has no effect any more is forgotten with the next one.
	e.clock.Advance(pki.OperatorLife + 2*time.Hour)
	if err := e.RevokeOperator(e.ctx, "eve"); err != nil {
		t.Fatal(err)
	}
	if left, err := e.spy.List(e.ctx, record.RevokedPrefix, "", 0); err != nil || len(left) != 1 {
		t.Error(left, err)
	}
}
