package control

import (
	"testing"

	"github.com/droverhq/drover/control/api"
	"github.com/droverhq/drover/dataset"
)

// A rewrite is its home's work, which changes nothing on record; nothing is begun of what is on
// its way to another node.
func TestRewrite(t *testing.T) {
	e := newEnv(t)
	a, b := e.agent("alpha"), e.agent("beta")
	a.register("alpha")
	b.register("beta")
	d := *a.commit(a.plan(create("db@silver"))).Dataset
	rewrite := api.Request{Kind: dataset.OpRewrite, Volume: "db"}
	op := a.plan(rewrite)
	for range 2 {
		a.commit(op)
	}
	v := e.volume("db")
	if v.Epoch != d.Epoch || v.Size != d.Size || v.Home != d.Home {
		t.Errorf("on record is %+v", v)
	}
	e.submit(api.Request{Kind: dataset.OpMove, Volume: "db", Node: "beta"})
	a.planned(rewrite, dataset.ErrConflict, "on its way to another node")
	a.planned(api.Request{Kind: dataset.OpRewrite, Volume: "none"}, dataset.ErrNotFound, "no such volume")
}

// An agent that does not say that it rewrites is older, and is asked for nothing that it would never
// answer.
func TestRewriteByAnOlderAgent(t *testing.T) {
	e := newEnv(t)
	a := e.agent("alpha")
	a.register("alpha")
	a.commit(a.plan(create("db@silver")))
	older := dataset.Node{ID: a.id, Name: "alpha", Version: "1.0.0", Incarnation: a.incarnation}
	for does, want := range map[dataset.OpKind]*dataset.Kind{"": dataset.ErrUnsupported, dataset.OpRekey: dataset.ErrUnsupported, dataset.OpRewrite: nil} {
		older.Does = []dataset.OpKind{does}
		if err := a.Register(a.ctx, api.Registration{Node: older, Pools: a.pools}); err != nil {
			t.Fatal(err)
		}
		rewrite := api.Request{Kind: dataset.OpRewrite, Volume: "db"}
		if want == nil {
			a.plan(rewrite)
		} else {
			a.planned(rewrite, want, "node alpha, which has it, runs drover 1.0.0, which cannot: update drover there")
		}
	}
}
