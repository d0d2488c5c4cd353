package controlsync_test

import (
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/uuid"

	"github.com/droverhq/drover/agent/agenttest"
	"github.com/droverhq/drover/agent/host"
	"github.com/droverhq/drover/agent/mounting"
	"github.com/droverhq/drover/control/api"
	"github.com/droverhq/drover/dataset"
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
			if err := r.Unmount(ctx, "db", "id"); err != nil {
				t.Error(err)
			}

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
	if err := r.Cache.SaveChanged(t.Context(), r.DB); err != nil {
		t.Fatal(err)
	}
	pool := filepath.Join(r.Root, "pool")
	if err := os.Rename(filepath.Join(pool, "datasets", db.ID.String()), filepath.Join(pool, "incoming", db.ID.String())); err != nil {
		t.Fatal(err)
	}
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
	if err := r.Cache.SaveChanged(ctx, r.DB); err != nil {
		t.Fatal(err)
	}
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
		if err := r.Unmount(ctx, "late", "id"); err != nil {
			t.Error(err)
		}
	}
	r.Link.ChangeSync(nil)
	if _, err := r.RebuildStore(ctx, api.RebuildStore{}); err != nil {
		t.Fatal(err)
	}
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
	if err != nil {
		t.Fatal(err)
	}
	for _, damage := range []func() error{
		func() error { return os.WriteFile(file(db), []byte("no record"), 0o600) },
		func() error {
			old := db
			old.Volume = "older"
			return r.Pool().WriteRecord(t.Context(), old, true)
		},
	} {
		if err := damage(); err != nil {
			t.Fatal(err)
		}
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
	if err := r.EmptyDatabase(); err != nil {
		t.Fatal(err)
	}
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
	if err := r.Remove(t.Context(), "db"); err != nil {
		t.Error(err)
	}
}
