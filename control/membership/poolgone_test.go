package membership_test

import (
	"slices"
	"strings"
	"testing"

	"github.com/google/uuid"

	"github.com/droverhq/drover/control/api"
	"github.com/droverhq/drover/control/controltest"
	"github.com/droverhq/drover/dataset"
)

// without registers as an agent that does not have a pool any more, and then reports that the pool is gone.
func without(a *controltest.Agent, name string, pool int) error {
	a.Helper()
	id := a.LocalPools[pool].ID
	all := a.LocalPools
	a.LocalPools = slices.Delete(slices.Clone(all), pool, pool+1)
	a.MustRegister(name)
	reg := api.Registration{Node: dataset.Node{ID: a.ID, Name: name, Incarnation: a.Incarnation}, Pools: a.LocalPools, RemovedPools: []uuid.UUID{id}}
	err := a.Register(a.Ctx, reg)
	if err != nil {
		a.LocalPools = all
		a.MustRegister(name)
	}
	return err
}

// mayLose registers as an agent that asks whether one of its pools may be removed.
func mayLose(a *controltest.Agent, name string, pool int) error {
	return a.Register(a.Ctx, api.Registration{Node: dataset.Node{ID: a.ID, Name: name, Incarnation: a.Incarnation}, Pools: a.LocalPools, RemovedPools: []uuid.UUID{a.LocalPools[pool].ID}})
}

// A pool is removed from the record once nothing in it is on record except condemned datasets, which are removed with
// it. Datasets in other pools of the node, and in pools of the same name on other nodes, stay.
func TestPoolIsGone(t *testing.T) {
	e := controltest.New(t)
	a, b := e.NewAgent("a"), e.NewAgent("b")
	create := func(name, pool string) dataset.Dataset {
		return *a.MustCommit(a.MustPlan(api.Request{Kind: dataset.OpCreate, Volume: name, Options: map[string]string{"pool": pool}})).Dataset
	}
	db, other := create("db", "plain"), create("other", "fast")
	conflict := func(text string) {
		t.Helper()
		controltest.Refused(t, mayLose(a, "a", 1), dataset.ErrConflict, "pool plain holds "+text)
		controltest.Refused(t, without(a, "a", 1), dataset.ErrConflict, "pool plain holds "+text)
	}
	conflict("volume db: drover volume rm db --dry-run")
	e.MustSubmit(api.Request{Kind: dataset.OpDelete, Volume: "db"})
	a.DoWork()
	conflict("volume db (in the trash, " + db.ID.String()[:8] + "): drover trash purge " + db.ID.String()[:8])
	e.MustSubmit(api.Request{Kind: dataset.OpPurge, Volume: db.ID.String()})
	if err := mayLose(a, "a", 1); err != nil {
		t.Error(err)
	}
	if s, err := a.Sync(a.Ctx, a.ID, 0, 0); err != nil || len(s.Datasets) != 2 {
		t.Errorf("asking has cleared something: %+v, %v", s.Datasets, err)
	}
	if err := without(a, "a", 1); err != nil {
		t.Fatal(err)
	}
	if s, err := a.Sync(a.Ctx, a.ID, 0, 0); err != nil || len(s.Datasets) != 1 || s.Datasets[0].ID != other.ID {
		t.Errorf("on record with the node: %+v, %v", s.Datasets, err)
	}
	if v := e.MustVolume("other"); v.ID != other.ID {
		t.Errorf("another one is %+v", v)
	}
	list, err := e.Pools(e.Ctx)
	var names []string
	for _, p := range list {
		names = append(names, p.NodeName+"/"+p.Name)
	}
	if got := strings.Join(names, " "); err != nil || got != "a/fast b/fast b/plain" {
		t.Errorf("there are %s, %v", got, err)
	}
	if err := without(b, "b", 0); err != nil { // nothing in it is on record
		t.Error(err)
	}
	if err := without(a, "a", 0); err == nil || !strings.Contains(err.Error(), "volume other") {
		t.Error(err)
	}
}

// Of several statements of one agent the last one counts, however late an earlier one arrives. The same statement is
// accepted again, and the count starts again with another agent.
func TestLateRegistrationIsNone(t *testing.T) {
	e := controltest.New(t)
	a := e.NewAgent("a")
	say := func(word uint64, pools []dataset.Pool) error {
		return a.Register(a.Ctx, api.Registration{Node: dataset.Node{ID: a.ID, Name: "a", Incarnation: a.Incarnation, RegistrationNumber: word}, Pools: pools, RemovedPools: []uuid.UUID{a.LocalPools[1].ID}})
	}
	for range 2 {
		if err := say(2, a.LocalPools[:1]); err != nil {
			t.Fatal(err)
		}
	}
	controltest.Refused(t, say(1, a.LocalPools), dataset.ErrStale, "a later request of its agent")
	if list, err := e.Pools(e.Ctx); err != nil || len(list) != 1 {
		t.Errorf("on record: %+v, %v", list, err)
	}
	a.Incarnation = uuid.New()
	if err := say(1, a.LocalPools); err != nil {
		t.Error(err)
	}
}
