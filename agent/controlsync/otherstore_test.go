package controlsync_test

import (
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/uuid"

	"github.com/droverhq/drover/agent"
	"github.com/droverhq/drover/agent/agenttest"
	"github.com/droverhq/drover/agent/host"
	"github.com/droverhq/drover/agent/lease"
	"github.com/droverhq/drover/agent/mounting"
	"github.com/droverhq/drover/backends"
	"github.com/droverhq/drover/control/api"
	"github.com/droverhq/drover/dataset"
	"github.com/droverhq/drover/test/assert"
	"github.com/droverhq/drover/test/require"
)

// A store that is not the one that the agent knew, or is older, cannot have anything destroyed: no dataset that it
// condemns, no dataset that it does not know, no snapshot. The problem is reported, and when the store is the known
// one again all of that is done.
func TestUnknownOrOlderStoreDestroysNothing(t *testing.T) {
	for name, c := range map[string]struct {
		change func(*api.Sync)
		says   string
	}{
		"another": {func(s *api.Sync) { s.Cluster = uuid.MustParse("00000000-0000-4000-8000-000000000009") }, "it is not the store that this node used before"},
		"an older index": {func(s *api.Sync) {
			for i := range s.Datasets {
				s.Datasets[i].Index = 1
			}
		}, "older"},
		"an older epoch": {func(s *api.Sync) {
			for i := range s.Datasets {
				s.Datasets[i].Epoch = 0
			}
		}, "older"},
	} {
		t.Run(name, func(t *testing.T) {
			r := agenttest.New(t)
			ctx := t.Context()
			db, doomed := r.NewVolume("db"), r.NewVolume("doomed")
			cut := r.NewIncoming()
			r.Link.ChangeSync(func(s *api.Sync) {
				for i, d := range s.Datasets {
					if d.ID == doomed.ID {
						s.Datasets[i].State = dataset.StatePurging
						s.Datasets[i].Index = 1 << 40
					}
				}
				c.change(s)
			})
			r.Restart()
			agenttest.Await(t, func() bool { return len(r.Jobs.Running()) == 0 })
			if got := r.ListPool("datasets"); len(got) != 2 || len(r.ListPool("incoming")) != 1 {
				t.Fatalf("in the pool: %v, incoming %v", got, r.ListPool("incoming"))
			}
			if got := r.StoreFinding(); !strings.Contains(got, c.says) {
				t.Errorf("doctor says %q, want %q", got, c.says)
			}
			if now, ok := r.Cache.Dataset(db.ID); !ok || now.State != dataset.StateReady || now.Epoch != db.Epoch {
				t.Errorf("it is known as %+v, %t", now, ok)
			}
			for _, kind := range []dataset.OpKind{dataset.OpPurge, dataset.OpSnapshotDelete, dataset.OpRestore} {
				op := dataset.Operation{
					ID: uuid.New(), Kind: kind, Node: r.NodeID, Volume: "db", DatasetID: db.ID, Epoch: db.Epoch,
					Snapshot: &dataset.Snapshot{ID: uuid.New(), Dataset: db.ID}, Source: &dataset.Source{Dataset: db.ID, Snapshot: uuid.New()},
				}
				_, err := r.Execute(ctx, &host.Job{}, op)
				if !errors.Is(err, dataset.ErrConflict) || !strings.Contains(err.Error(), "drover store recover --from-pools") {
					t.Errorf("%s: %v", kind, err)
				}
			}
			// Volumes whose home is this node are used as always.
			r.MountDataset(db, "id")
			r.WantUses(db, "id")
			assert.NoError(t, r.Unmount(ctx, "db", "id"))

			r.Link.ChangeSync(nil)
			r.Restart()
			if got := r.StoreFinding(); got != "" {
				t.Errorf("doctor says %q", got)
			}
			if left := r.ListPool("incoming"); len(left) != 0 {
				t.Errorf("incoming: %v, of which %s was never acknowledged", left, cut.ID)
			}
		})
	}
}

// A dataset that the agent saw on record, and that the store has forgotten, is left unchanged, whether it is incoming
// or not.
func TestDatasetThatStoreForgotIsKept(t *testing.T) {
	r := agenttest.New(t)
	db := r.NewVolume("db")
	require.NoError(t, r.Cache.SaveChanged(t.Context(), r.DB))
	pool := filepath.Join(r.Root, "pool")
	require.NoError(t, os.Rename(filepath.Join(pool, "datasets", db.ID.String()), filepath.Join(pool, "incoming", db.ID.String())))
	r.Link.ChangeSync(func(s *api.Sync) { s.Datasets = nil })
	r.Restart()
	if left := r.ListPool("incoming"); len(left) != 1 {
		t.Errorf("incoming: %v", left)
	}
}

// A store that was restored from a backup may lack only a volume that was created since. The volume is not forgotten,
// because Docker would create another one with its name. It is not forgotten after a restart either, when the indexes
// of the store have advanced.
func TestRestoredStoreWithoutNewVolumeKeepsIt(t *testing.T) {
	r := agenttest.New(t)
	ctx := t.Context()
	r.NewVolume("old")
	late := r.NewVolume("late")
	require.NoError(t, r.Cache.SaveChanged(ctx, r.DB))
	for _, index := range []uint64{1, 1 << 40} {
		r.Link.ChangeSync(func(s *api.Sync) {
			s.RegistrationIndex = index
			s.Datasets = slices.DeleteFunc(s.Datasets, func(d api.IndexedDataset) bool { return d.ID == late.ID })
		})
		r.Restart()
		if got := r.StoreFinding(); !strings.Contains(got, "older") || !strings.Contains(got, "late") {
			t.Fatalf("index %d: doctor says %q", index, got)
		}
		if err := r.Create(ctx, "new", nil); !errors.Is(err, dataset.ErrConflict) || !strings.Contains(err.Error(), "drover store recover --from-pools") {
			t.Errorf("create: %v", err)
		}
		r.MountDataset(late, "id")
		r.WantUses(late, "id")
		assert.NoError(t, r.Unmount(ctx, "late", "id"))
	}
	r.Link.ChangeSync(nil)
	_, err := r.RebuildStore(ctx, api.RebuildStore{})
	require.NoError(t, err)
	if got := r.StoreFinding(); got != "" {
		t.Errorf("doctor says %q", got)
	}
	r.NewVolume("new")
}

// A record beside the data that is outdated, or cannot be read, is rewritten at the next start. A correct record is
// left alone.
func TestOutdatedRecordsBesideDataAreRewritten(t *testing.T) {
	r := agenttest.New(t)
	db, right := r.NewVolume("db"), r.NewVolume("right")
	file := func(d dataset.Dataset) string {
		return filepath.Join(r.Root, "pool", "datasets", d.ID.String(), "record.json")
	}
	before, err := os.Stat(file(right))
	require.NoError(t, err)
	for _, damage := range []func() error{
		func() error { return os.WriteFile(file(db), []byte("no record"), 0o600) },
		func() error {
			old := db
			old.Volume = "older"
			return r.Pool().WriteRecord(t.Context(), old, true)
		},
	} {
		require.NoError(t, damage())
		r.Restart()
		agenttest.Await(t, func() bool {
			e, err := r.Pool().Stat(t.Context(), db.ID)
			return err == nil && e.Record != nil && e.Record.Volume == "db"
		})
	}
	after, err := os.Stat(file(right))
	if err != nil || !os.SameFile(before, after) {
		t.Errorf("the correct record was rewritten (%v)", err)
	}
}

// The agent's database is lost. The node keeps its identity, its pools and its volumes, and mounted volumes stay
// mounted until nobody uses them.
func TestLostDatabaseKeepsNodePoolsAndMounts(t *testing.T) {
	r := agenttest.New(t)
	db := r.NewVolume("db")
	r.MountDataset(db, "id")
	node, poolID := r.NodeID, r.Pool().ID()
	require.NoError(t, r.EmptyDatabase())
	r.Restart()
	if r.NodeID != node || r.Pool().ID() != poolID {
		t.Errorf("node %s with pool %s, want %s with %s", r.NodeID, r.Pool().ID(), node, poolID)
	}
	if got := r.StoreFinding(); got != "" {
		t.Errorf("doctor says %q", got)
	}
	r.WantUses(db, mounting.UnknownUse)
	if since := r.Uses.Get(db.ID).IDs[mounting.UnknownUse].Since; !since.Equal(r.FakeClock.Now()) {
		t.Errorf("it is used since %s, want the start of the agent at %s", since, r.FakeClock.Now())
	}
	says := "cannot remove volume db: the engine on node host-a mounted it shortly before drover or the engine started, " +
		"and may be starting a container with it (try again in 21s)"
	if err := r.Remove(t.Context(), "db"); !errors.Is(err, dataset.ErrInUse) || err.Error() != says {
		t.Errorf("remove: %v", err)
	}
	r.Advance(mounting.MountedGrace + mounting.VerifyEvery)
	r.Advance(mounting.VerifyEvery)
	r.WantUses(db)
	assert.NoError(t, r.Remove(t.Context(), "db"))
}

// A cluster shrank to a single host. Its store was restored from a backup of before a move to another node. A rebuild
// gives the volume a later epoch than the other node may have opened. After that, the store is consistent, and the
// volume can be used.
func TestI1RebuildReplacesRelinquishedEpoch(t *testing.T) {
	r := agenttest.New(t)
	ctx := t.Context()
	d := r.NewVolume("db")
	y := lease.Relinquished{Epoch: d.Epoch, Move: uuid.New(), To: uuid.New(), Reported: true}
	require.NoError(t, r.Leases.Relinquish(ctx, d.ID, y))
	r.Restart()
	if got := r.StoreFinding(); !strings.Contains(got, "older") {
		t.Fatalf("doctor says %q", got)
	}
	if _, err := r.Mount(ctx, "db", "one"); err == nil {
		t.Error("it is mounted at an epoch that has ended")
	}
	if out, err := r.RebuildStore(ctx, api.RebuildStore{}); err != nil || len(out) != 1 || out[0].Action != "restored" {
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

// One rebuild is enough if control may have recorded a relinquished epoch, and its reply was lost.
func TestRebuildReplacesEpochAfterLostReply(t *testing.T) {
	r := agenttest.New(t)
	ctx := t.Context()
	d := r.NewVolume("db")
	y := lease.Relinquished{
		Epoch: d.Epoch, Move: uuid.New(), To: uuid.New(), Manifest: &dataset.Manifest{Snapshot: uuid.New()}, Answered: r.Clock.Now(),
	}
	require.NoError(t, r.Leases.Relinquish(ctx, d.ID, y))
	if out, err := r.RebuildStore(ctx, api.RebuildStore{}); err != nil || len(out) != 1 || out[0].Action != "restored" {
		t.Errorf("got %+v, %v", out, err)
	}
	assert.NoError(t, r.DropIfUnneeded(ctx, d.ID, y))
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

// I1: a host of a cluster rebuilds nothing from its own pools, because another node may have a later epoch.
func TestI1RebuildInClusterIsRefused(t *testing.T) {
	c := agenttest.NewCluster(t, "dir", "dir")
	for _, dry := range []bool{true, false} {
		_, err := c.A.RebuildStore(t.Context(), api.RebuildStore{DryRun: dry})
		if dataset.KindOf(err) != dataset.ErrUnsupported || !strings.Contains(err.Error(), "drover store recover") {
			t.Errorf("dry run %t: %v", dry, err)
		}
	}
}

// The newer one of the record beside the data and the agent's copy of it describes the dataset: a power cut can undo
// the one, a crash the other.
func TestNewestRecordWinsAfterCrashOrPowerCut(t *testing.T) {
	r := agenttest.New(t)
	d := r.NewVolume("db")
	at := r.Cache.Index(d.ID)
	if at == 0 {
		t.Fatal("the copy has no index")
	}
	p, _ := r.Pools.ByName("default")
	entry := func() backends.Entry {
		t.Helper()
		entries, err := p.Storage.List(t.Context())
		if err != nil || len(entries) != 1 {
			t.Fatal(entries, err)
		}
		return entries[0]
	}
	for _, c := range []struct {
		what    string
		written int64 // relative to the agent's copy
		epoch   int64
		record  bool
	}{
		{"of the same transaction", 0, 0, false},
		{"older", -1, 0, false},
		{"newer", 1, 0, true},
		{"older, of the epoch before", 1, -1, false},
		{"newer, of the next epoch", -1, 1, true},
	} {
		beside := d
		beside.Volume, beside.Epoch = "beside", uint64(int64(d.Epoch)+c.epoch)
		beside.Written = uint64(int64(at) + c.written)
		require.NoError(t, p.Storage.WriteRecord(t.Context(), beside, true))
		f, ok := r.Holdings.FoundDataset(entry(), false)
		if want := map[bool]string{true: "beside", false: "db"}[c.record]; !ok || f.Dataset.Volume != want {
			t.Errorf("a record that is %s: found as %s, not %s", c.what, f.Dataset.Volume, want)
		}
		r.Cache.ForgetIndexes()
		if f, _ := r.Holdings.FoundDataset(entry(), false); c.epoch >= 0 && f.Dataset.Volume != "beside" {
			t.Errorf("a record that is %s, beside a copy of no known transaction: found as %s", c.what, f.Dataset.Volume)
		}
		r.Cache.Apply(d, at)
	}
	r.WriteRecord(t.Context(), p.Storage, d)
	if got := entry().Record.Written; got != at {
		t.Errorf("written with index %d, want %d", got, at)
	}
}

// A rebuild gets the index beside the data: an agent whose database was lost or restored knows no index, or an older
// one. The recovery of a store does not: it compares indexes with those of the store.
func TestRebuildGetsTheIndexBesideTheData(t *testing.T) {
	r := agenttest.New(t)
	d := r.NewVolume("db")
	p, _ := r.Pools.ByName("default")
	beside := d
	beside.Written = 1 << 40
	require.NoError(t, p.Storage.WriteRecord(t.Context(), beside, true))
	for _, known := range []bool{true, false} {
		if !known {
			r.Cache.ForgetIndexes()
		}
		found, err := r.Holdings.ListPool(t.Context(), p)
		if err != nil || len(found) != 1 {
			t.Fatalf("got %d datasets, error %v, want 1", len(found), err)
		}
		if got := found[0].Dataset.Written; got != beside.Written || (found[0].Index != 0) != known {
			t.Errorf("index known: %t: a rebuild gets index %d, written %d", known, found[0].Index, got)
		}
		h, err := r.Holdings.List(t.Context())
		if err != nil || len(h.Datasets) != 1 || h.Datasets[0].Dataset.Written != 0 {
			t.Errorf("index known: %t: a recovery gets %+v, error %v", known, h.Datasets, err)
		}
	}
}

// I3: the store and the agent's database were restored from a backup together, and the pool was not. The records beside
// the data show it: the store is inconsistent from the start, and the newer record stays, so that a rebuild finds it.
func TestI3NewerRecordBesideTheDataHaltsTheStore(t *testing.T) {
	r := agenttest.New(t, func(c *agent.Config) { c.PeerHTTP = nil })
	d := r.NewVolume("db")
	p, _ := r.Pools.ByName("default")
	agenttest.Await(t, func() bool { return len(r.Jobs.Running()) == 0 })
	beside := d
	beside.Volume, beside.Written = "renamed", r.Cache.Index(d.ID)+1000
	require.NoError(t, p.Storage.WriteRecord(t.Context(), beside, true))
	r.Restart()
	if got := r.StoreFinding(); !strings.Contains(got, "older") {
		t.Errorf("doctor says %q", got)
	}
	r.WriteAllRecords()
	agenttest.Await(t, func() bool { return len(r.Jobs.Running()) == 0 })
	if e, err := r.Pool().Stat(t.Context(), d.ID); err != nil || e.Record == nil || e.Record.Volume != "renamed" {
		t.Fatalf("beside the data: %+v, %v", e.Record, err)
	}
	if out, err := r.RebuildStore(t.Context(), api.RebuildStore{}); err != nil || len(out) != 1 || out[0].Action != "restored" {
		t.Errorf("rebuilt: %+v, %v", out, err)
	}
	r.Restart()
	if got := r.StoreFinding(); got != "" {
		t.Errorf("after the rebuild, doctor says %q", got)
	}
	r.MustMount("renamed", "one")
	r.MustUnmount("renamed", "one")
}
