package control

import (
	"context"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"testing"
	"testing/synctest"
	"time"

	"github.com/droverhq/drover/control/record"
	"github.com/droverhq/drover/control/store"
	"github.com/droverhq/drover/dataset"
	"github.com/droverhq/drover/internal/clock"
	"github.com/droverhq/drover/internal/pki"
)

// answeredLists is a store whose lists are what the test answers.
type answeredLists struct {
	store.Store
	asked  chan struct{}
	answer chan []store.Entry
}

func (s answeredLists) List(context.Context, string, string, int) ([]store.Entry, error) {
	s.asked <- struct{}{}
	return <-s.answer, nil
}

// A certificate is refused as soon as this replica has revoked it, also when another request looked at
// the store just before and waits for the answer.
func TestRevokedDuringALook(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		bob := pki.Identity{Kind: pki.Operator, Role: pki.Worker, Name: "bob"}
		cert := &x509.Certificate{NotBefore: someday}
		clk := clock.NewFake(someday)
		st := answeredLists{asked: make(chan struct{}), answer: make(chan []store.Entry)}
		s := &Service{Deps: Deps{Clock: clk}, store: st}
		s.revoked.looked.L = &s.revoked.mu
		asks := func() <-chan error {
			answer := make(chan error, 1)
			go func() { answer <- s.Revoked(bob, cert) }()
			return answer
		}
		first := asks()
		<-st.asked
		st.answer <- nil
		if err := <-first; err != nil { // something is known from here on
			t.Fatal(err)
		}
		clk.Advance(revokedEvery)
		before := asks()
		<-st.asked
		s.revoked.lookAgain() // as RevokeOperator does when it is on record
		after := []<-chan error{asks(), asks()}
		wait := func(during string) {
			synctest.Wait()
			for _, answer := range after {
				if len(answer) > 0 {
					t.Errorf("during %s: answered from what was known before", during)
				}
			}
		}
		wait("the look that began before")
		st.answer <- nil
		if err := <-before; err != nil {
			t.Error(err)
		}
		wait("the look that began after")
		if t.Failed() {
			return
		}
		value, err := json.Marshal(record.Revocation{Operator: "bob", At: clk.Now()})
		if err != nil {
			t.Error(err)
		}
		<-st.asked
		st.answer <- []store.Entry{{Key: record.RevokedOperatorKey("bob"), Value: value}}
		for _, answer := range after {
			refused(t, <-answer, dataset.ErrForbidden, "was revoked")
		}
	})
}

// Another replica hears of it within seconds, and goes on with what it knew when the
// store is away.
func TestRevokedElsewhere(t *testing.T) {
	e, ca := newCluster(t)
	bob := pki.Identity{Kind: pki.Operator, Role: pki.Worker, Name: "bob"}
	cert := certificate(t, ca, bob, someday)
	if err := e.Revoked(bob, cert); err != nil {
		t.Fatal(err)
	}
	other, _ := newService(Deps{Store: e.spy, Clock: e.clock, Profiles: e.Deps.Profiles, Failed: e.Failed})
	defer other.Close()
	e.clock.Advance(time.Second)
	if err := other.RevokeOperator(e.ctx, "bob"); err != nil {
		t.Fatal(err)
	}
	refused(t, other.Revoked(bob, cert), dataset.ErrForbidden, "the certificate of operator bob (operator) was revoked at 2026-11-18T12:00:01Z")
	if err := e.Revoked(bob, cert); err != nil {
		t.Error("heard too soon: each request asks the store:", err)
	}
	e.clock.Advance(revokedEvery)
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
