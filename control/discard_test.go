package control

import (
	"errors"
	"testing"

	"github.com/droverhq/drover/control/api"
	"github.com/droverhq/drover/dataset"
)

// A head that was overtaken is kept until a person lets go of it, and nothing else is
// let go of so.
func TestDiscard(t *testing.T) {
	e := newEnv(t)
	a, b := e.agent("alpha"), e.agent("beta")
	d := a.create("db@gold")
	discard := func(node string) api.Request {
		return api.Request{Kind: dataset.OpDiscard, Volume: "db", Node: node}
	}
	e.moved("db", a, b, "beta")
	if _, err := e.Submit(e.ctx, discard("")); !errors.Is(err, dataset.ErrNotFound) {
		t.Errorf("of a copy that a move left: %v", err)
	}
	op := *e.submit(forced("db", "alpha", "beta")).Operation
	if out := a.commit(op); out.Dataset.Home != a.id || out.Dataset.Epoch != 3 {
		t.Fatalf("%+v", out)
	}
	e.check()
	v := e.volume("db")
	if len(v.Kept) != 1 || v.Kept[0].Kind != dataset.CopySuperseded || v.Kept[0].NodeName != "beta" {
		t.Fatalf("kept: %+v", v.Kept)
	}
	for _, node := range []string{"alpha", "gamma"} {
		if _, err := e.Submit(e.ctx, discard(node)); err == nil {
			t.Errorf("node %s keeps none", node)
		}
	}
	e.submit(discard("beta"))
	sync := b.sync(0)
	if len(sync.Copies) != 1 || sync.Copies[0].Kind != dataset.CopyGoing {
		t.Fatalf("its node hears %+v", sync.Copies)
	}
	if err := b.Copied(b.ctx, b.id, api.Copied{Incarnation: b.incarnation, Copy: sync.Copies[0].Copy, Gone: true}); err != nil {
		t.Fatal(err)
	}
	if v := e.volume("db"); len(v.Kept) != 0 || len(v.Copies) != 0 || v.ID != d.ID {
		t.Errorf("%+v", v)
	}
	e.check()
}
