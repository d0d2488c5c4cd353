package membership_test

import (
	"testing"

	"github.com/google/uuid"

	"github.com/droverhq/drover/control/api"
	"github.com/droverhq/drover/control/controltest"
	"github.com/droverhq/drover/control/record"
	"github.com/droverhq/drover/dataset"
)

// TestDrained: a node that is being drained is drained once it has no volume and no replica. Its trash does not count.
func TestDrained(t *testing.T) {
	e := controltest.New(t)
	a, b := e.NewAgent("alpha"), e.NewAgent("beta")
	want := func(when string, drained bool) {
		t.Helper()
		nodes, err := e.NodeList(e.Ctx, "")
		if err != nil {
			t.Fatal(err)
		}
		for _, n := range nodes {
			if n.Drained != (drained && n.ID == a.ID) {
				t.Errorf("%s: node %s has drained=%t", when, n.Name, n.Drained)
			}
		}
	}
	a.MustCreate("db")
	other := b.MustCreate("other")
	want("before the drain", false)
	if _, err := e.Cordon(e.Ctx, a.ID, api.Cordoned{Cordoned: true, Draining: true}); err != nil {
		t.Fatal(err)
	}
	want("with a volume", false)
	a.MustDelete("db")
	want("with a dataset in the trash", true)
	change := func(fn func(*record.Tx) error) {
		t.Helper()
		if _, err := e.Ledger.Update(e.Ctx, fn); err != nil {
			t.Fatal(err)
		}
	}
	replica := dataset.Copy{Dataset: other.ID, Node: a.ID, Pool: uuid.New(), Kind: dataset.CopyReplica}
	change(func(t *record.Tx) error { return t.Put(record.CopyKey(a.ID, other.ID), replica) })
	want("with a replica", false)
	change(func(t *record.Tx) error { t.Delete(record.CopyKey(a.ID, other.ID)); return nil })
	want("without the replica", true)
	if _, err := e.Cordon(e.Ctx, a.ID, api.Cordoned{Cordoned: true}); err != nil {
		t.Fatal(err)
	}
	want("only cordoned", false)
}
