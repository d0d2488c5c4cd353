package agent

import (
	"context"
	"slices"
	"testing"
	"time"

	"github.com/google/uuid"

	"github.com/droverhq/drover/agent/lineage"
	"github.com/droverhq/drover/control/api"
	"github.com/droverhq/drover/dataset"
)

// homeUnheard is a flock in which a volume's move to b is on record, and b has reached nobody
// since it told that it is done.
func homeUnheard(t *testing.T) (*flock, dataset.Dataset) {
	f := newFlock(t, "loop", "loop")
	f.may = "wants replicas on more nodes"
	d := f.a.volume("db", map[string]string{"size": "320MiB", "profile": "safe"})
	f.a.writes("db", "token", "all of it")
	await(t, func() bool { _, checked := f.upTo("db"); return !checked.IsZero() })
	gone := f.b.dies("commit", 1)
	f.begins("db", f.b)
	died(t, gone)
	await(t, func() bool { return f.record("db").Home == f.b.Node() })
	return f, d
}

// overtakes has a person send a volume on without b.
func (f *flock) overtakes(d dataset.Dataset) {
	f.Helper()
	f.a.settled(d.ID)
	out, err := f.svc.Submit(f.Context(), api.Request{ID: uuid.New(), Kind: dataset.OpMove, Volume: d.Volume, Node: "host-a", Force: true, Fenced: "host-b"})
	if err != nil {
		f.Fatal(err)
	}
	if op := f.ended(*out.Operation); op.State != dataset.OpDone {
		f.Fatalf("%+v", op.Problem)
	}
}

// A node that became the home and died before it heard so, and that was overtaken before it
// was back, keeps the head that it had as any other: whether it looks at its copies before
// it hears, as one that starts while control is away does, or has no head any more.
func TestOvertakenBeforeItHeard(t *testing.T) {
	for name, meanwhile := range map[string]func(*flockHost, dataset.Dataset){
		"and looks at its copy first": func(h *flockHost, d dataset.Dataset) {
			reached := h.cfg.Control
			h.cfg.Control = away{reached}
			h.up()
			if err := h.copies.Settle(h.f.Context(), d.ID); err != nil {
				h.f.Error(err)
			}
			if e, err := h.thePool().Stat(h.f.Context(), d.ID); err != nil || !e.Promoted {
				h.f.Errorf("what a move made, which may be on record, is gone: %+v, %v", e, err)
			}
			h.down()
			h.cfg.Control = reached
		},
		"and has no head": func(h *flockHost, d dataset.Dataset) {
			pool := h.thePool()
			e, err := pool.Stat(h.f.Context(), d.ID)
			if err != nil {
				h.f.Fatal(err)
			}
			s, _ := lineage.Best(e)
			if err := pool.(fusedImages).Copier.Demote(h.f.Context(), d.ID, s.ID); err != nil {
				h.f.Fatal(err)
			}
		},
	} {
		t.Run(name, func(t *testing.T) {
			f, d := homeUnheard(t)
			f.b.down()
			f.overtakes(d)
			f.b.fuse.mend()
			meanwhile(f.b, d)
			f.b.up()
			var kept uuid.UUID
			await(t, func() bool {
				v := f.record("db")
				i := slices.IndexFunc(v.Kept, func(c api.KeptCopy) bool { return c.Node == f.b.Node() })
				if i >= 0 && v.Kept[i].Kind == dataset.CopySuperseded {
					kept = v.Kept[i].Snapshot
				}
				return kept != uuid.Nil
			})
			if held := f.b.holds(d, kept, "token"); held != "all of it" {
				t.Errorf("what was overtaken holds %q", held)
			}
		})
	}
}

// A node that became the home, was cut off before it heard so, and was overtaken meanwhile,
// asks again what was not answered: that it went on elsewhere is no reason to take it for
// its own, nor the store for one that was put back.
func TestOvertakenWhileCutOff(t *testing.T) {
	f, d := homeUnheard(t)
	f.overtakes(d)
	f.b.fuse.mend()
	await(t, func() bool {
		return slices.ContainsFunc(f.record("db").Kept, func(c api.KeptCopy) bool {
			return c.Node == f.b.Node() && c.Kind == dataset.CopySuperseded && c.Snapshot != uuid.Nil
		})
	})
	if known, ok := f.b.Cache.Dataset(d.ID); ok {
		t.Errorf("it is known as its own: %+v", known)
	}
	if err := f.b.Trust.Err(); err != nil {
		t.Error(err)
	}
}

// answering is a control that has not let this node in yet, but says what it is asked.
type answering struct {
	away
	volumes bool
}

func (c answering) Operation(ctx context.Context, ref string, wait time.Duration) (dataset.Operation, error) {
	return c.away.Service.Operation(ctx, ref, wait)
}

func (c answering) Volume(ctx context.Context, ref string) (api.Volume, error) {
	if !c.volumes {
		return c.away.Volume(ctx, ref)
	}
	return c.away.Service.Volume(ctx, ref)
}

// A node that became the home and died before it heard so keeps its head until it does,
// whatever control says first.
func TestHomeBeforeItHeard(t *testing.T) {
	f, d := homeUnheard(t)
	f.b.down()
	f.b.fuse.mend()
	reached := f.b.cfg.Control
	for _, volumes := range []bool{false, true} {
		f.b.cfg.Control = answering{away{reached}, volumes}
		f.b.up()
		f.b.installer.Resume(t.Context())
		if err := f.b.copies.Settle(t.Context(), d.ID); err != nil {
			t.Error(err)
		}
		if e, err := f.b.thePool().Stat(t.Context(), d.ID); err != nil || !e.Promoted {
			t.Errorf("volumes are told of: %t: the head is gone: %+v, %v", volumes, e, err)
		}
		if _, known := f.b.moveTable.Get(d.ID); !known {
			t.Errorf("volumes are told of: %t: what a move brought is forgotten", volumes)
		}
		f.b.down()
	}
	f.b.cfg.Control = reached
	f.b.up()
	await(t, func() bool { return f.b.opener(d.ID) })
	if got := f.b.reads("db", "token"); got != "all of it" {
		t.Errorf("it holds %q", got)
	}
	f.a.settled(d.ID)
}
