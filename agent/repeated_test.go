package agent

import (
	"testing"

	"github.com/google/uuid"

	"github.com/droverhq/drover/agent/lineage"
	"github.com/droverhq/drover/control/api"
	"github.com/droverhq/drover/dataset"
)

// blows has the process die at the next act of a name, before it; gone is closed then.
func (f *fuse) blows(at string) (gone <-chan struct{}) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.gone, f.at, f.nth = make(chan struct{}), at, 1
	return f.gone
}

// What was done, and whose report a crash kept from control, is put on record as done, also where
// somebody uses the volume by the time that it is looked at again: a restore that is said to have
// failed has changed nothing, and no snapshot is left behind.
func TestDoneAndNotReported(t *testing.T) {
	for name, of := range map[string]struct{ backend, spec string }{
		"in use at home": {"nfs", "db@plain"}, "an image in use at home": {"loop", "db@plain"}, "in use by a guest": {"nfs", "db@many"},
	} {
		for _, kind := range []dataset.OpKind{dataset.OpRestore, dataset.OpSnapshot} {
			t.Run(name+" "+string(kind), func(t *testing.T) {
				f := newFlock(t, of.backend, of.backend)
				d := f.a.volume(of.spec, nil)
				f.a.writes("db", "token", "old")
				f.ended(*f.asks(api.Request{Kind: dataset.OpSnapshot, Volume: "db", Name: "first"}).Operation)
				f.a.writes("db", "token", "new")
				gone := f.a.fuse.blows("commit")
				req := api.Request{Kind: kind, Volume: "db", Snapshot: "first"}
				if kind == dataset.OpSnapshot {
					req.Snapshot, req.Name = "", "second"
				}
				op := *f.asks(req).Operation
				died(t, gone)
				f.a.down()
				f.a.fuse.mend()
				user := f.a
				if of.spec == "db@many" {
					user = f.b
					for _, g := range f.record("db").Guests { // as the home says first of all when it is back
						over := api.Stay{Incarnation: f.a.Incarnation, Dataset: d.ID, ID: g.ID, Over: true}
						if _, err := f.svc.Guest(t.Context(), f.a.Node(), over); err != nil {
							t.Fatal(err)
						}
					}
					user.mounts("db", "user")
				} else { // which asks no control
					link := f.a.cfg.Control
					f.a.cfg.Control = away{link}
					f.a.up()
					user.mounts("db", "user")
					f.a.down()
					f.a.cfg.Control = link
				}
				f.a.up()
				op = f.ended(op)
				user.unmounts("db", "user")
				want := map[dataset.OpKind]string{dataset.OpRestore: "old", dataset.OpSnapshot: "new"}[kind]
				if got := f.a.reads("db", "token"); got != want || op.State != dataset.OpDone {
					t.Errorf("the %s is %s (%+v), and the volume holds %q", kind, op.State, op.Problem, got)
				}
				f.a.sameSnapshots(d.ID)
			})
		}
	}
}

// sameSnapshots fails unless those on record lie in the pool.
func (h *flockHost) sameSnapshots(id uuid.UUID) {
	h.f.Helper()
	list, err := h.f.svc.Snapshots(h.f.Context(), id.String(), api.Page{})
	if err != nil {
		h.f.Fatal(err)
	}
	e, err := h.thePool().Stat(h.f.Context(), id)
	if err != nil {
		h.f.Fatal(err)
	}
	if len(e.Snapshots) != 2 || len(list.Items) != 2 || lineage.IndexOf(e, list.Items[0].ID) < 0 || lineage.IndexOf(e, list.Items[1].ID) < 0 {
		h.f.Errorf("on record: %+v; in the pool: %+v", list.Items, e.Snapshots)
	}
}
