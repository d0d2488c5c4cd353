package membership

import (
	"context"
	"crypto/x509"
	"encoding/json"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/droverhq/drover/control/record"
	"github.com/droverhq/drover/control/store"
	"github.com/droverhq/drover/dataset"
	"github.com/droverhq/drover/internal/clock"
	"github.com/droverhq/drover/internal/pki"
)

// began is the time at which the tests begin.
var began = time.Date(2026, 11, 18, 12, 0, 0, 0, time.UTC)

// answeredLists is a store whose lists are set by the test.
type answeredLists struct {
	store.Store
	asked  chan struct{}
	answer chan []store.Entry
}

func (s answeredLists) List(context.Context, string, string, int) ([]store.Entry, error) {
	s.asked <- struct{}{}
	return <-s.answer, nil
}

// A certificate is refused as soon as this replica has revoked it, also when another request started to read the
// store just before and waits for the answer.
func TestRevokedDuringALook(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		bob := pki.Identity{Kind: pki.Operator, Role: pki.Worker, Name: "bob"}
		cert := &x509.Certificate{NotBefore: began}
		clk := clock.NewFake(began)
		st := answeredLists{asked: make(chan struct{}), answer: make(chan []store.Entry)}
		s := NewAdmission(record.NewLedger(st, clk, false, nil), nil)
		asks := func() <-chan error {
			answer := make(chan error, 1)
			go func() { answer <- s.Revoked(bob, cert) }()
			return answer
		}
		first := asks()
		<-st.asked
		st.answer <- nil
		if err := <-first; err != nil { // the revocations are known from here on
			t.Fatal(err)
		}
		clk.Advance(RevocationsInterval)
		before := asks()
		<-st.asked
		s.revoked.invalidate() // as RevokeOperator does after the revocation is on record
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
			if err := <-answer; dataset.KindOf(err) != dataset.ErrForbidden || !strings.Contains(err.Error(), "was revoked") {
				t.Errorf("got %v, want ErrForbidden: was revoked", err)
			}
		}
	})
}
