package operation_test

import (
	"testing"

	"github.com/google/uuid"

	"github.com/droverhq/drover/agent/agenttest"
	"github.com/droverhq/drover/agent/host"
	"github.com/droverhq/drover/control/api"
	"github.com/droverhq/drover/dataset"
)

// blows crashes the process before the next act of a name. gone is closed then.
func blows(f *agenttest.Fuse, at string) (gone <-chan struct{}) {
	f.Mu.Lock()
	defer f.Mu.Unlock()
	f.Gone, f.At, f.Nth = make(chan struct{}), at, 1
	return f.Gone
}

// A crash prevented the report of an operation that was done. The operation is recorded as done, even if somebody
// uses the volume when it is resumed: a restore that is reported as failed has changed nothing, and no snapshot is
// left behind.
func TestFinishedButUnreportedOperations(t *testing.T) {
	for name, of := range map[string]struct{ backend, spec string }{
		"in use at home": {"nfs", "db@plain"}, "an image in use at home": {"loop", "db@plain"}, "in use by a guest": {"nfs", "db@many"},
	} {
		for _, kind := range []dataset.OpKind{dataset.OpRestore, dataset.OpSnapshot} {
			t.Run(name+" "+string(kind), func(t *testing.T) {
				f := agenttest.NewCluster(t, of.backend, of.backend)
				d := f.A.NewVolume(of.spec, nil)
				f.A.WriteFile("db", "token", "old")
				f.AwaitEnd(*f.Submit(api.Request{Kind: dataset.OpSnapshot, Volume: "db", Name: "first"}).Operation)
				f.A.WriteFile("db", "token", "new")
				gone := blows(f.A.Fuse, "commit")
				req := api.Request{Kind: kind, Volume: "db", Snapshot: "first"}
				if kind == dataset.OpSnapshot {
					req.Snapshot, req.Name = "", "second"
				}
				op := *f.Submit(req).Operation
				agenttest.AwaitDeath(t, gone)
				f.A.Stop()
				f.A.Fuse.Mend()
				user := f.A
				if of.spec == "db@many" {
					user = f.B
					// The home reports these first when it is reachable again.
					for _, g := range f.Recorded("db").SharedMounts {
						over := api.SharedMountReport{Incarnation: f.A.Incarnation, Dataset: d.ID, ID: g.ID, Ended: true}
						if _, err := f.Service.ReportSharedMount(t.Context(), f.A.Node(), over); err != nil {
							t.Fatal(err)
						}
					}
					user.MustMount("db", "user")
				} else { // this asks no control
					link := f.A.Config.Control
					f.A.Config.Control = agenttest.UnreachableControl{Service: link}
					f.A.Start()
					user.MustMount("db", "user")
					f.A.Stop()
					f.A.Config.Control = link
				}
				f.A.Start()
				op = f.AwaitEnd(op)
				user.MustUnmount("db", "user")
				want := map[dataset.OpKind]string{dataset.OpRestore: "old", dataset.OpSnapshot: "new"}[kind]
				if got := f.A.ReadFile("db", "token"); got != want || op.State != dataset.OpDone {
					t.Errorf("the %s is %s (%+v), and the volume holds %q", kind, op.State, op.Problem, got)
				}
				sameSnapshots(f.A, d.ID)
			})
		}
	}
}

// sameSnapshots fails unless the recorded snapshots are in the pool.
func sameSnapshots(h *agenttest.Host, id uuid.UUID) {
	h.Cluster.Helper()
	list, err := h.Cluster.Service.Snapshots(h.Cluster.Context(), id.String(), api.Page{})
	if err != nil {
		h.Cluster.Fatal(err)
	}
	e, err := h.Pool().Stat(h.Cluster.Context(), id)
	if err != nil {
		h.Cluster.Fatal(err)
	}
	if len(e.Snapshots) != 2 || len(list.Items) != 2 || host.IndexOf(e, list.Items[0].ID) < 0 || host.IndexOf(e, list.Items[1].ID) < 0 {
		h.Cluster.Errorf("on record: %+v; in the pool: %+v", list.Items, e.Snapshots)
	}
}
