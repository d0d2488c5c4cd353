package membership_test

import (
	"testing"

	"github.com/droverhq/drover/control/controltest"
	"github.com/droverhq/drover/control/record"
)

// A node that trusts the store can report so as often as it likes, at no cost to the store.
func TestTrustIsNotWritten(t *testing.T) {
	x := controltest.NewReplicas(t, 1)
	e := &controltest.Control{TB: t, Service: x.Services[0], Ctx: t.Context()}
	n := e.NewAgent("n1")
	for _, why := range []string{"", "it is older", "it is older", ""} {
		n.ReportDistrust(why)
	}
	before := x.Txns()
	for range 10 {
		n.ReportDistrust("")
	}
	if got := x.Txns() - before; got != 0 {
		t.Errorf("%d transactions", got)
	}
}

// A node that trusts the store again reports it to any service that it can reach. That works even if the service that
// recorded the distrust has stopped, and the service that receives the report never knew of the distrust.
func TestTrustIsReadFromTheRecord(t *testing.T) {
	x := controltest.NewReplicas(t, 2)
	a, b := x.Services[0], x.Services[1]
	e := &controltest.Control{TB: t, Service: a, Ctx: t.Context()}
	n := e.NewAgent("n1") // a, which trusts it, says so
	e.Service = b
	n.ReportDistrust("it is older")
	e.Service = a
	x.Clock.Advance(record.NodeCacheTTL)
	before := x.Txns()
	n.ReportDistrust("")
	if x.Txns() == before {
		t.Error("the store stays halted, as nobody looked")
	}
	if there, err := record.NewTx(t.Context(), x.Store).Peek(record.HaltedKey, &record.Halt{}); err != nil || there {
		t.Error("it is halted yet:", err)
	}
	x.Clock.Advance(record.NodeCacheTTL)
	before = x.Txns()
	n.ReportDistrust("")
	if got := x.Txns(); got != before {
		t.Errorf("%d transactions for a heartbeat that says what is on record", got-before)
	}
}
