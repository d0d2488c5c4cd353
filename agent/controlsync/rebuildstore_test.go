package controlsync_test

import (
	"slices"
	"strings"
	"testing"

	"github.com/google/uuid"

	"github.com/droverhq/drover/agent/agenttest"
	"github.com/droverhq/drover/agent/lease"
	"github.com/droverhq/drover/control/api"
	"github.com/droverhq/drover/control/store"
	"github.com/droverhq/drover/dataset"
)

// records returns all records of control's store.
func records(r *agenttest.Host) []store.Entry {
	r.T.Helper()
	list, err := r.Cluster.ControlStore.List(r.T.Context(), "", "", 0)
	if err != nil {
		r.T.Fatal(err)
	}
	return list
}

// restoreStore stops the agent, restores the records of control's store, and starts the agent with a new control. The
// indexes of the store continue, so they do not show the restore.
func restoreStore(r *agenttest.Host, saved []store.Entry) {
	r.T.Helper()
	cfg := r.Config
	r.Stop()
	var writes []store.Write
	for _, e := range records(r) {
		if !slices.ContainsFunc(saved, func(s store.Entry) bool { return s.Key == e.Key }) {
			writes = append(writes, store.Write{Key: e.Key, Delete: true})
		}
	}
	for _, e := range saved {
		writes = append(writes, store.Write{Key: e.Key, Value: e.Value})
	}
	if _, err := r.Cluster.ControlStore.Txn(r.T.Context(), nil, writes); err != nil {
		r.T.Fatal(err)
	}
	r.RestartControl()
	r.StartWith(cfg)
}

// addGrants creates repository team and grants for it.
func addGrants(r *agenttest.Host, names ...string) {
	r.T.Helper()
	ctx := r.T.Context()
	if _, err := r.Cluster.Client.AddRepository(ctx, api.NewRepository{
		Name: "team", URL: "/srv/team", Password: dataset.PasswordSource{File: "/etc/drover/team"},
	}); err != nil {
		r.T.Fatal(err)
	}
	for _, name := range names {
		g := api.NewGrant{Name: name, Repository: "team", SecretHash: strings.Repeat("0", 64)}
		if _, err := r.Cluster.Client.AddGrant(ctx, g); err != nil {
			r.T.Fatal(err)
		}
	}
}

// wantGrants fails unless these grants are valid.
func wantGrants(r *agenttest.Host, want ...string) {
	r.T.Helper()
	list, err := r.Cluster.Client.Grants(r.T.Context())
	var names []string
	for _, g := range list {
		names = append(names, g.Name)
	}
	if err != nil || !slices.Equal(names, want) {
		r.T.Errorf("the grants are %q, %v, want %q", names, err, want)
	}
}

// The store of a single host was restored from a backup of before the removal of a grant, and nothing else was changed
// in between. No grant is valid until the store is rebuilt, which removes all grants or keeps them. After that, the
// store is consistent, and another restore is noticed again.
func TestRestoredStoreDoesNotReviveGrants(t *testing.T) {
	for name, keep := range map[string]bool{"removes": false, "keeps": true} {
		t.Run(name, func(t *testing.T) {
			r := agenttest.New(t)
			ctx := t.Context()
			r.NewVolume("db")
			addGrants(r, "ann", "bob")
			saved := records(r)
			if err := r.Cluster.Client.RemoveGrant(ctx, "ann"); err != nil {
				t.Fatal(err)
			}
			agenttest.Await(t, func() bool { return r.StoreClock.Now() == 2 })
			for range 2 {
				restoreStore(r, saved)
				if got := r.StoreFinding(); !strings.Contains(got, "the removal of a grant") {
					t.Fatalf("doctor says %q", got)
				}
				if list, err := r.Cluster.Client.Grants(ctx); dataset.KindOf(err) != dataset.ErrConflict || !strings.Contains(err.Error(), "drover store rebuild") {
					t.Errorf("the grants are %+v, %v", list, err)
				}
				want := []string{"ann", "bob"}
				would, err := r.RebuildStore(ctx, api.RebuildStore{DryRun: true, KeepGrants: keep})
				if err != nil || slices.Equal(would.RemovedGrants, want) == keep || r.Trust.Err() == nil {
					t.Errorf("dry run: %+v, %v", would, err)
				}
				did, err := r.RebuildStore(ctx, api.RebuildStore{KeepGrants: keep})
				if err != nil || !slices.Equal(did.RemovedGrants, would.RemovedGrants) || len(did.Items) != 1 {
					t.Errorf("got %+v, %v, and the dry run said %+v", did, err, would)
				}
				if !keep {
					want = nil
				}
				wantGrants(r, want...)
				r.Restart()
				if got := r.StoreFinding(); got != "" {
					t.Errorf("after the rebuild, doctor says %q", got)
				}
				wantGrants(r, want...)
			}
		})
	}
}

// A rebuild of a store that is consistent keeps the grants.
func TestRebuildOfConsistentStoreKeepsGrants(t *testing.T) {
	r := agenttest.New(t)
	r.NewVolume("db")
	addGrants(r, "ann")
	if out, err := r.RebuildStore(t.Context(), api.RebuildStore{}); err != nil || len(out.RemovedGrants) > 0 {
		t.Errorf("got %+v, %v", out, err)
	}
	wantGrants(r, "ann")
}

// A cluster shrank to a single host. Its store was restored from a backup of before a move to another node. A rebuild
// gives the volume a later epoch than the other node may have opened. After that, the store is consistent, and the
// volume can be used.
func TestI1RebuildReplacesRelinquishedEpoch(t *testing.T) {
	r := agenttest.New(t)
	ctx := t.Context()
	d := r.NewVolume("db")
	y := lease.Relinquished{Epoch: d.Epoch, Move: uuid.New(), To: uuid.New(), Reported: true}
	if err := r.Leases.Relinquish(ctx, d.ID, y); err != nil {
		t.Fatal(err)
	}
	r.Restart()
	if got := r.StoreFinding(); !strings.Contains(got, "older") {
		t.Fatalf("doctor says %q", got)
	}
	if _, err := r.Mount(ctx, "db", "one"); err == nil {
		t.Error("it is mounted at an epoch that has ended")
	}
	if out, err := r.RebuildStore(ctx, api.RebuildStore{}); err != nil || len(out.Items) != 1 || out.Items[0].Action != "restored" {
		t.Errorf("got %+v, %v", out, err)
	}
	r.Restart()
	if got := r.StoreFinding(); got != "" {
		t.Errorf("after the rebuild, doctor says %q", got)
	}
	if now, _ := r.Cache.Dataset(d.ID); now.Epoch != d.Epoch+2 {
		t.Errorf("it is at epoch %d, want %d", now.Epoch, d.Epoch+2)
	}
	agenttest.Await(t, func() bool {
		_, relinquished := r.Leases.Relinquished(d.ID)
		return !relinquished
	})
	r.MustMount("db", "one")
	r.MustUnmount("db", "one")
}

// The removal of a grant while the store is halted does not end the halt, although it is a removal more in the store.
func TestRemovedGrantDoesNotEndHalt(t *testing.T) {
	r := agenttest.New(t)
	r.NewVolume("db")
	addGrants(r, "ann", "bob")
	saved := records(r)
	remove := func(name string) {
		t.Helper()
		if err := r.Cluster.Client.RemoveGrant(t.Context(), name); err != nil {
			t.Fatal(err)
		}
	}
	remove("ann")
	agenttest.Await(t, func() bool { return r.StoreClock.Now() == 2 })
	restoreStore(r, saved)
	remove("bob")
	r.Restart()
	if list, err := r.Cluster.Client.Grants(t.Context()); dataset.KindOf(err) != dataset.ErrConflict {
		t.Errorf("the grants are %+v, %v", list, err)
	}
	if got := r.StoreFinding(); !strings.Contains(got, "the removal of a grant") {
		t.Errorf("doctor says %q", got)
	}
	if out, err := r.RebuildStore(t.Context(), api.RebuildStore{}); err != nil || !slices.Equal(out.RemovedGrants, []string{"ann"}) {
		t.Errorf("got %+v, %v", out, err)
	}
	wantGrants(r)
}

// One rebuild is enough if control may have recorded a relinquished epoch, and its reply was lost.
func TestRebuildReplacesEpochAfterLostReply(t *testing.T) {
	r := agenttest.New(t)
	ctx := t.Context()
	d := r.NewVolume("db")
	y := lease.Relinquished{
		Epoch: d.Epoch, Move: uuid.New(), To: uuid.New(), Manifest: &dataset.Manifest{Snapshot: uuid.New()}, Answered: r.Clock.Now(),
	}
	if err := r.Leases.Relinquish(ctx, d.ID, y); err != nil {
		t.Fatal(err)
	}
	if out, err := r.RebuildStore(ctx, api.RebuildStore{}); err != nil || len(out.Items) != 1 || out.Items[0].Action != "restored" {
		t.Errorf("got %+v, %v", out, err)
	}
	if err := r.Relinquisher.DropIfUnneeded(ctx, d.ID, y); err != nil {
		t.Error(err)
	}
	r.Restart()
	if got := r.StoreFinding(); got != "" {
		t.Errorf("after the rebuild, doctor says %q", got)
	}
	agenttest.Await(t, func() bool {
		_, relinquished := r.Leases.Relinquished(d.ID)
		return !relinquished
	})
	r.MustMount("db", "one")
	r.MustUnmount("db", "one")
}
