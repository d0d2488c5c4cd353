package control

import (
	"fmt"
	"testing"

	"github.com/google/uuid"

	"github.com/droverhq/drover/control/api"
	"github.com/droverhq/drover/control/record"
	"github.com/droverhq/drover/dataset"
)

// named returns the names of the snapshots of a volume.
func (e *env) named(volume string) map[string]bool {
	e.Helper()
	list, err := e.Snapshots(e.ctx, volume, api.Page{})
	if err != nil {
		e.Fatalf("%v", err)
	}
	names := map[string]bool{}
	for _, s := range list.Items {
		names[s.Name] = true
	}
	return names
}

// Snapshots that a promotion goes on without are on record until it is, however the store
// fails meanwhile, and no longer than the next round after that.
func TestLossIsForgottenAfterItsPromotion(t *testing.T) {
	const many = 2*record.SnapshotsAtOnce + 2
	for n := 1; ; n++ {
		e := newEnv(t)
		a, b := e.agent("alpha"), e.agent("beta")
		a.create("db@silver")
		kept := a.snapshot("db", "kept")
		d := e.moved("db", a, b, "beta")
		for i := range many {
			b.snapshot("db", fmt.Sprint("lost-", i))
		}
		op := *e.submit(forced("db", "alpha", "beta")).Operation
		e.spy.fail(n, n%2 == 0)
		err := a.commits(op)
		e.spy.fail(0, false)
		e.check()
		if e.volume("db").Home == b.id {
			if got := e.named("db"); err == nil || len(got) != many+1 {
				t.Fatalf("failing at call %d: %v, and of %d snapshots %d are left with a home that is not overtaken", n, err, many+1, len(got))
			}
			continue
		}
		if v := e.volume("db"); v.Latest != kept.ID || len(v.Losses) != 1 || v.Losses[0].Over != d.Epoch {
			t.Fatalf("failing at call %d: latest %s, %+v", n, v.Latest, v.Losses)
		}
		failed := len(e.failures) > 0
		e.rounds()
		if got := e.named("db"); len(got) != 1 || !got["kept"] {
			t.Fatalf("failing at call %d: left are %v", n, got)
		}
		if v := e.volume("db"); !v.Losses[0].Forgotten {
			t.Errorf("%+v", v.Losses)
		}
		if e.check(); !failed && err == nil {
			return // nothing failed any more
		}
	}
}

// A promotion that is refused has forgotten nothing.
func TestPromotionRefusedForgetsNothing(t *testing.T) {
	for what, befalls := range map[string]func(e *env, a *agent, d dataset.Dataset) error{
		"condemned": func(e *env, a *agent, d dataset.Dataset) error {
			_, err := e.Ledger.Update(e.ctx, func(t *record.Tx) error { return record.CondemnCopy(t, a.id, d.ID) })
			return err
		},
		"overtaken": func(e *env, a *agent, d dataset.Dataset) error {
			c := dataset.Copy{Dataset: d.ID, Node: a.id, Kind: dataset.CopySuperseded, Epoch: d.Epoch, Snapshot: uuid.New(), Taken: someday}
			return e.Copied(e.ctx, a.id, api.Copied{Incarnation: a.incarnation, Copy: c})
		},
	} {
		t.Run(what, func(t *testing.T) { promotionRefused(t, befalls) })
	}
}

func promotionRefused(t *testing.T, befalls func(*env, *agent, dataset.Dataset) error) {
	e := newEnv(t)
	a, b := e.agent("alpha"), e.agent("beta")
	a.create("db@gold")
	d := e.moved("db", a, b, "beta")
	b.snapshot("db", "mine")
	op := *e.submit(forced("db", "alpha", "beta")).Operation
	if err := befalls(e, a, d); err != nil {
		t.Fatal(err)
	}
	refused(t, a.commits(op), dataset.ErrConflict, "not to be kept")
	if got := e.named("db"); !got["mine"] {
		t.Errorf("left are %v", got)
	}
	if _, err := e.CancelOperation(e.ctx, op.ID.String()); err != nil {
		t.Fatal(err)
	}
	if v := e.volume("db"); v.Home != b.id || len(v.Losses) != 0 || v.Latest == uuid.Nil {
		t.Errorf("%+v", v.Dataset)
	}
	e.check()
}
