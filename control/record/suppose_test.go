package record_test

import (
	"context"
	"testing"

	"github.com/google/uuid"

	"github.com/droverhq/drover/control/api"
	"github.com/droverhq/drover/control/controltest"
	"github.com/droverhq/drover/control/record"
	"github.com/droverhq/drover/control/store"
	"github.com/droverhq/drover/dataset"
)

// counting counts the calls to a store.
type counting struct {
	store.Store
	reads, txns int
}

func (c *counting) Get(ctx context.Context, key string) (store.Entry, error) {
	c.reads++
	return c.Store.Get(ctx, key)
}

func (c *counting) GetMany(ctx context.Context, keys []string) ([]store.Entry, error) {
	c.reads++
	return c.Store.GetMany(ctx, keys)
}

func (c *counting) List(ctx context.Context, prefix, after string, limit int) ([]store.Entry, error) {
	c.reads++
	return c.Store.List(ctx, prefix, after, limit)
}

func (c *counting) Txn(ctx context.Context, checks []store.Precondition, writes []store.Write) (uint64, error) {
	c.txns++
	return c.Store.Txn(ctx, checks, writes)
}

// A create by an agent that reported recently costs one read, to plan it, and one transaction. The transaction checks
// the assumptions of the plan. If they are wrong, the create is decided again with what was read.
func TestSuppositions(t *testing.T) {
	e := controltest.New(t)
	a := e.NewAgent("alpha")
	a.MustCreate("first")
	c := &counting{Store: e.Service.Ledger.Store}
	e.Ledger.Store = c
	cost := func(what string, reads, txns int, do func()) {
		t.Helper()
		c.reads, c.txns = 0, 0
		do()
		if c.reads != reads || c.txns != txns {
			t.Errorf("%s: %d reads and %d transactions, want %d and %d", what, c.reads, c.txns, reads, txns)
		}
	}
	cost("create", 1, 1, func() { a.MustCreate("db") })
	if err := e.Heartbeat(e.Ctx, a.ID, api.Heartbeat{Incarnation: a.Incarnation}); err != nil {
		t.Fatal(err)
	}
	cost("heartbeat", 0, 0, func() {
		if err := e.Heartbeat(e.Ctx, a.ID, api.Heartbeat{Incarnation: a.Incarnation}); err != nil {
			t.Error(err)
		}
	})

	taken := a.MustPlan(controltest.Create("late"))
	a.MustCreate("late")
	cost("commit of a name that was claimed meanwhile", 4, 1, func() {
		if out := a.MustCommit(taken); !out.Duplicate || out.Dataset.Volume != "late" {
			t.Errorf("%+v", out)
		}
	})

	// Another replica registers an agent again, and this service does not learn of it.
	stale := a.MustPlan(controltest.Create("stale"))
	var n dataset.Node
	other := record.NewTx(e.Ctx, c.Store)
	if _, err := other.Get(record.NodeKey(a.ID), &n); err != nil {
		t.Fatal(err)
	}
	n.Incarnation = uuid.New()
	if err := other.Put(record.NodeKey(a.ID), n); err != nil {
		t.Fatal(err)
	}
	if _, err := other.Commit(); err != nil {
		t.Fatal(err)
	}
	if _, err := e.Commit(e.Ctx, a.ID, a.ReportOf(stale)); dataset.KindOf(err) != dataset.ErrStale {
		t.Errorf("a commit of an agent that is not the node's newest: %v", err)
	}
	if _, err := e.Volume(e.Ctx, "stale"); dataset.KindOf(err) != dataset.ErrNotFound {
		t.Errorf("it made a volume: %v", err)
	}
}

// The record of a node is taken from memory for a few seconds. It is not after the store was restored from a backup,
// because the store may then give the index of a record to another one.
func TestRecalledForAFewSeconds(t *testing.T) {
	x := controltest.NewReplicas(t, 1)
	e := x.On(x.Services[0])
	a := e.NewAgent("alpha")
	recalled := func(want bool) {
		t.Helper()
		if _, ok := e.Ledger.Nodes().Entry(a.ID); ok != want {
			t.Errorf("it is taken from memory: %t, want %t", ok, want)
		}
	}
	a.MustCreate("db")
	recalled(true)
	x.Clock.Advance(record.NodeCacheTTL)
	recalled(false)
	a.MustCreate("again")
	recalled(true)
	if err := e.Ledger.HaltRestored(e.Ctx, 1); err != nil {
		t.Fatal(err)
	}
	recalled(false)
}
