package membership

import (
	"context"
	"crypto/x509"
	"encoding/json"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/uuid"

	"github.com/droverhq/drover/control/record"
	"github.com/droverhq/drover/control/store"
	"github.com/droverhq/drover/dataset"
	"github.com/droverhq/drover/internal/pki"
	"github.com/droverhq/drover/test/assert"
	"github.com/droverhq/drover/test/fakes"
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
		clk := fakes.NewClock(began)
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
		assert.NoError(t, <-before)
		wait("the look that began after")
		if t.Failed() {
			return
		}
		value, err := json.Marshal(record.Revocation{Operator: "bob", At: clk.Now()})
		assert.NoError(t, err)
		<-st.asked
		st.answer <- []store.Entry{{Key: record.RevokedOperatorKey("bob"), Value: value}}
		for _, answer := range after {
			if err := <-answer; dataset.KindOf(err) != dataset.ErrForbidden || !strings.Contains(err.Error(), "was revoked") {
				t.Errorf("got %v, want ErrForbidden: was revoked", err)
			}
		}
	})
}

func TestVanished(t *testing.T) {
	at := func(minutes ...int) map[uuid.UUID]time.Duration {
		out := map[uuid.UUID]time.Duration{}
		for i, m := range minutes {
			out[uuid.UUID{byte(i + 1)}] = time.Duration(m) * time.Minute
		}
		return out
	}
	before := []uuid.UUID{{1}, {2}, {3}}
	for _, c := range []struct {
		all    int
		ran    map[uuid.UUID]time.Duration
		before []uuid.UUID
		want   int
	}{
		{2, at(0, 0), nil, 0}, // two are not enough for a mass loss
		{3, at(0), nil, 0},
		{3, at(0, 5), nil, 2},
		{3, at(0, 6), nil, 0},
		{6, at(0, 1), nil, 0}, // a third one, and no more
		{6, at(0, 1, 2), nil, 3},
		{9, at(0, 4, 8, 12), nil, 0},
		{9, at(0, 4, 8, 12, 12, 13, 14), nil, 4}, // whenever others were lost before
		{9, at(0, 60), before, 0},                // one of them is reachable again
		{6, at(0, 60, 200), before, 3},
	} {
		if got := vanishedTogether(c.all, c.ran, c.before); len(got) != c.want {
			t.Errorf("%d nodes, %v, halted for %d before: %v", c.all, c.ran, len(c.before), got)
		}
	}
}

// While anything waits for a failover, all nodes are checked once a second, however many wait.
func TestLossLookIsBounded(t *testing.T) {
	var l lossCheck
	for i, c := range []struct {
		at   time.Duration
		want bool
	}{{0, true}, {0, false}, {LossCheckInterval - 1, false}, {LossCheckInterval, true}, {LossCheckInterval, false}} {
		if l.due(c.at) != c.want {
			t.Errorf("%d, at %v: want %t", i, c.at, c.want)
		}
	}
}

// If the record that a node is unreachable was removed and written again, its time starts again, even if it has the
// same index as before. That happens in a store that was restored from a backup.
func TestAbsentIsCountedAnew(t *testing.T) {
	var a sightings
	a.observe("away/x", 7, time.Second)
	a.retain(map[string]bool{"away/x": true})
	if d := a.observe("away/x", 7, 11*time.Second); d != 10*time.Second {
		t.Errorf("seen for %v", d)
	}
	a.retain(map[string]bool{})
	if d := a.observe("away/x", 7, 12*time.Second); d != 0 {
		t.Errorf("seen for %v, though it was gone", d)
	}
}
