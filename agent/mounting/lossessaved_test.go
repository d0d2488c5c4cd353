package mounting_test

import (
	"context"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/droverhq/drover/agent/agenttest"
	"github.com/droverhq/drover/agent/host"
	"github.com/droverhq/drover/agent/mounting"
	"github.com/droverhq/drover/agent/records"
	"github.com/droverhq/drover/control/store"
	"github.com/droverhq/drover/control/store/bolt"
	"github.com/droverhq/drover/dataset"
	"github.com/droverhq/drover/internal/clock"
)

// fullStore is a store whose disk is full while full is set.
type fullStore struct {
	store.Store
	full bool
}

func (s *fullStore) Txn(ctx context.Context, checks []store.Precondition, writes []store.Write) (uint64, error) {
	if s.full {
		return 0, dataset.Errorf(dataset.ErrNoSpace, "no space left")
	}
	return s.Store.Txn(ctx, checks, writes)
}

// A loss that could not be recorded, because the database is on the full disk, is recorded once there is space.
func TestLossIsRecordedLater(t *testing.T) {
	r := agenttest.New(t)
	d := r.NewVolume("db")
	st, err := bolt.Open(t.Context(), t.TempDir()+"/agent.db", bolt.Options{Clock: clock.System{}})
	if err != nil {
		t.Fatal(err)
	}
	defer st.Close()
	disk := &fullStore{Store: st, full: true}
	h := &host.Host{
		Boot: r.Boot, DB: records.OpenDB(disk), Cache: r.Cache, Clock: r.Clock, Log: r.Log, News: r.News,
	}
	watcher := func() *mounting.Watcher {
		w := mounting.New(h, r.Pools, nil, nil, nil).LostWrites
		if err := w.Load(t.Context()); err != nil {
			t.Fatal(err)
		}
		return w
	}
	w := watcher()
	w.Failed(t.Context(), d, unix.ENOSPC)
	if problem := watcher().Problem(d.ID); problem != "" {
		t.Fatalf("recorded on a full disk: %s", problem)
	}
	b, err := r.Pools.Get(d.Pool)
	if err != nil {
		t.Fatal(err)
	}
	for _, full := range []bool{true, false} {
		disk.full = full
		w.Look(t.Context(), b, d, r.MountPath(d.ID))
		if known := watcher().Problem(d.ID) != ""; known == full {
			t.Errorf("full %t: the next start knows the loss: %t", full, known)
		}
	}
}
