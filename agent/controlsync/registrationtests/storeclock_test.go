package registration_test

import (
	"slices"
	"strings"
	"testing"

	"github.com/google/uuid"

	"github.com/droverhq/drover/agent/agenttest"
	"github.com/droverhq/drover/agent/controlsync"
	"github.com/droverhq/drover/control/api"
	"github.com/droverhq/drover/dataset"
)

// A store whose clock is behind was restored from an older backup, whatever its indexes are: the indexes of a
// restored Consul continue above all that were used. Datasets that the store lacks are not forgotten, operations that
// it lists are not repeated, and nothing is decided. A restart does not change that.
func TestStoreWithOlderClockIsRejected(t *testing.T) {
	for _, lacks := range []bool{true, false} {
		r := agenttest.New(t)
		r.Link.ChangeSync(func(s *api.Sync) { s.StoreClock = 50 })
		r.Restart()
		late := r.NewVolume("late")
		cfg := r.Config
		r.Stop() // its clock is on disk from now on
		out, err := r.Link.Service.Submit(t.Context(), api.Request{ID: uuid.New(), Kind: dataset.OpSnapshot, Volume: "late"})
		if err != nil {
			t.Fatal(err)
		}
		r.Link.ChangeSync(func(s *api.Sync) {
			s.RegistrationIndex, s.StoreClock = 1<<40, 49
			if lacks {
				s.Datasets = slices.DeleteFunc(s.Datasets, func(d api.IndexedDataset) bool { return d.ID == late.ID })
			}
		})
		r.StartWith(cfg)
		for range 2 {
			r.Restart()
			if got := r.StoreFinding(); !strings.Contains(got, "older than what this node has") {
				t.Fatalf("lacks %t: doctor says %q", lacks, got)
			}
			agenttest.Await(t, func() bool { return len(r.Jobs.Running()) == 0 })
			if op, known := r.Runner.Lookup(t.Context(), out.Operation.ID); !known || op.State != dataset.OpPending {
				t.Errorf("lacks %t: an operation of the older store was carried out: it is %s", lacks, op.State)
			}
			r.MountDataset(late, "id")
			r.WantUses(late, "id")
			if err := r.Unmount(t.Context(), "late", "id"); err != nil {
				t.Error(err)
			}
		}
	}
}

// The clock is written only when it has advanced.
func TestStoreClockIsSavedWhenItMoves(t *testing.T) {
	r := agenttest.New(t)
	r.StoreClock.Raise(7)
	r.StoreClock.Raise(5)
	if err := r.StoreClock.Save(t.Context()); err != nil {
		t.Fatal(err)
	}
	e, err := r.Config.State.Get(t.Context(), controlsync.ClockKey)
	if err != nil || string(e.Value) != "7" {
		t.Fatalf("%s, %v", e.Value, err)
	}
	r.StoreClock.Raise(7)
	if err := r.StoreClock.Save(t.Context()); err != nil {
		t.Fatal(err)
	}
	if again, err := r.Config.State.Get(t.Context(), controlsync.ClockKey); err != nil || again.Index != e.Index {
		t.Errorf("it was written again, %v", err)
	}
}
