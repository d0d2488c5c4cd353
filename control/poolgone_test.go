package control

import (
	"slices"
	"strings"
	"testing"

	"github.com/google/uuid"

	"github.com/droverhq/drover/control/api"
	"github.com/droverhq/drover/dataset"
)

// without registers as an agent does that has a pool no more, and then says that it is gone.
func (a *agent) without(name string, pool int) error {
	a.Helper()
	id := a.pools[pool].ID
	all := a.pools
	a.pools = slices.Delete(slices.Clone(all), pool, pool+1)
	a.register(name)
	reg := api.Registration{Node: dataset.Node{ID: a.id, Name: name, Incarnation: a.incarnation}, Pools: a.pools, Gone: []uuid.UUID{id}}
	err := a.Register(a.ctx, reg)
	if err != nil {
		a.pools = all
		a.register(name)
	}
	return err
}

// mayLose registers as an agent does that asks whether a pool that it has may go.
func (a *agent) mayLose(name string, pool int) error {
	return a.Register(a.ctx, api.Registration{Node: dataset.Node{ID: a.id, Name: name, Incarnation: a.incarnation}, Pools: a.pools, Gone: []uuid.UUID{a.pools[pool].ID}})
}

// A pool goes off the record once nothing is on record there but what is condemned, which goes with
// it; what lies in the node's other pools, and in pools of that name elsewhere, stays.
func TestPoolIsGone(t *testing.T) {
	e := newEnv(t)
	a, b := e.agent("a"), e.agent("b")
	create := func(name, pool string) dataset.Dataset {
		return *a.commit(a.plan(api.Request{Kind: dataset.OpCreate, Volume: name, Options: map[string]string{"pool": pool}})).Dataset
	}
	db, other := create("db", "plain"), create("other", "fast")
	conflict := func(text string) {
		t.Helper()
		refused(t, a.mayLose("a", 1), dataset.ErrConflict, "pool plain holds "+text)
		refused(t, a.without("a", 1), dataset.ErrConflict, "pool plain holds "+text)
	}
	conflict("volume db: drover volume rm db, then drover trash purge " + db.ID.String()[:8])
	e.submit(api.Request{Kind: dataset.OpDelete, Volume: "db"})
	a.work()
	conflict("volume db (in the trash, " + db.ID.String()[:8] + "): drover trash purge " + db.ID.String()[:8])
	e.submit(api.Request{Kind: dataset.OpPurge, Volume: db.ID.String()})
	if err := a.mayLose("a", 1); err != nil {
		t.Error(err)
	}
	if s, err := a.Sync(a.ctx, a.id, 0, 0); err != nil || len(s.Datasets) != 2 {
		t.Errorf("asking has cleared something: %+v, %v", s.Datasets, err)
	}
	if err := a.without("a", 1); err != nil {
		t.Fatal(err)
	}
	if s, err := a.Sync(a.ctx, a.id, 0, 0); err != nil || len(s.Datasets) != 1 || s.Datasets[0].ID != other.ID {
		t.Errorf("on record with the node: %+v, %v", s.Datasets, err)
	}
	if v := e.volume("other"); v.ID != other.ID {
		t.Errorf("another one is %+v", v)
	}
	list, err := e.Pools(e.ctx)
	var names []string
	for _, p := range list {
		names = append(names, p.NodeName+"/"+p.Name)
	}
	if got := strings.Join(names, " "); err != nil || got != "a/fast b/fast b/plain" {
		t.Errorf("there are %s, %v", got, err)
	}
	if err := b.without("b", 0); err != nil { // of which nothing is on record
		t.Error(err)
	}
	if err := a.without("a", 0); err == nil || !strings.Contains(err.Error(), "volume other") {
		t.Error(err)
	}
}

// Of the words of one agent the last counts, however late one before it comes; the same again is
// taken, and another agent counts anew.
func TestLateRegistrationIsNone(t *testing.T) {
	e := newEnv(t)
	a := e.agent("a")
	say := func(word uint64, pools []dataset.Pool) error {
		return a.Register(a.ctx, api.Registration{Node: dataset.Node{ID: a.id, Name: "a", Incarnation: a.incarnation, Word: word}, Pools: pools, Gone: []uuid.UUID{a.pools[1].ID}})
	}
	for range 2 {
		if err := say(2, a.pools[:1]); err != nil {
			t.Fatal(err)
		}
	}
	refused(t, say(1, a.pools), dataset.ErrStale, "a later one of its agent")
	if list, err := e.Pools(e.ctx); err != nil || len(list) != 1 {
		t.Errorf("on record: %+v, %v", list, err)
	}
	a.incarnation = uuid.New()
	if err := say(1, a.pools); err != nil {
		t.Error(err)
	}
}
