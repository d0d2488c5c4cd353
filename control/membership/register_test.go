package membership_test

import (
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/uuid"

	"github.com/droverhq/drover/control/api"
	"github.com/droverhq/drover/control/controltest"
	"github.com/droverhq/drover/control/record"
	"github.com/droverhq/drover/control/reports"
	"github.com/droverhq/drover/dataset"
)

// The records of a node are bounded as well.
func TestRegistrationsAreBounded(t *testing.T) {
	e := controltest.New(t)
	a := e.NewAgent("alpha")
	for range reports.MaxPools/2 - 1 {
		for i := range a.LocalPools {
			a.LocalPools[i].ID = uuid.New()
		}
		a.MustRegister("alpha")
	}
	for range 3 {
		a.LocalPools = append(a.LocalPools, dataset.Pool{ID: uuid.New(), Name: "more"})
	}
	r := api.Registration{Node: dataset.Node{ID: a.ID, Name: "alpha", Incarnation: a.Incarnation}, Pools: a.LocalPools}
	before := e.Dump()
	controltest.Refused(t, e.Register(e.Ctx, r), dataset.ErrInvalid, "alpha", "259 pools", "256 at most")
	r.Pools = []dataset.Pool{{ID: uuid.New(), Name: strings.Repeat("x", reports.MaxRecord)}}
	controltest.Refused(t, e.Register(e.Ctx, r), dataset.ErrInvalid, "bytes (131072 at most)")
	if diff := cmp.Diff(before, e.Dump()); diff != "" {
		t.Error(diff)
	}
}

func TestRegister(t *testing.T) {
	e := controltest.New(t)
	a := e.NewAgent("alpha")
	cluster := func() uuid.UUID {
		s, err := e.Sync(e.Ctx, a.ID, 0, 0)
		if err != nil || s.Cluster == uuid.Nil {
			t.Fatal(s.Cluster, err)
		}
		return s.Cluster
	}
	id := cluster()
	a.MustCreate("db")
	_, err := e.Ledger.Update(e.Ctx, func(t *record.Tx) error {
		return t.Put(record.NodeKey(a.ID), dataset.Node{ID: a.ID, Name: "alpha", Incarnation: a.Incarnation, Cordoned: true, Pools: []uuid.UUID{a.LocalPools[0].ID, a.LocalPools[1].ID}})
	})
	if err != nil {
		t.Fatal(err)
	}
	gone := a.LocalPools[1].ID
	a.LocalPools = a.LocalPools[:1]
	a.Incarnation = uuid.New()
	a.MustRegister("alpha2")
	nodes, err := e.NodeList(e.Ctx, "")
	if err != nil || len(nodes) != 1 {
		t.Fatal(nodes, err)
	}
	if n := nodes[0]; n.Name != "alpha2" || !n.Cordoned || len(n.Pools) != 2 || n.Pools[1] != gone || n.Incarnation != a.Incarnation {
		t.Errorf("%+v", n)
	}
	if cluster() != id {
		t.Error("the store has another identity than before")
	}
	a.MustRefusePlan(controltest.Create("db2"), dataset.ErrOffline, "its node is cordoned")
	for _, r := range []api.Registration{
		{}, {Node: dataset.Node{ID: uuid.New()}}, {Node: dataset.Node{ID: uuid.New(), Incarnation: uuid.New()}, Pools: []dataset.Pool{{Name: "x"}}},
		{Node: dataset.Node{ID: uuid.New(), Incarnation: uuid.New()}, Pools: []dataset.Pool{a.LocalPools[0], a.LocalPools[0]}},
	} {
		controltest.Refused(t, e.Register(e.Ctx, r), dataset.ErrInvalid, "register")
	}
}

// Pools are listed by node and name, and not in the order of their UUIDs.
func TestPoolsAreInOrder(t *testing.T) {
	e := controltest.New(t)
	for _, node := range []string{"gamma", "alpha", "delta", "beta"} {
		e.NewAgent(node)
	}
	pools, err := e.Pools(e.Ctx)
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, p := range pools {
		got = append(got, p.NodeName+"/"+p.Name)
	}
	if len(got) != 8 || !slices.IsSorted(got) {
		t.Errorf("%v", got)
	}
}
