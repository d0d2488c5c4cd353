package agent

import (
	"slices"
	"strings"
	"testing"

	"github.com/google/uuid"

	"github.com/droverhq/drover/agent/registration"
	"github.com/droverhq/drover/control/api"
	"github.com/droverhq/drover/dataset"
)

// A store whose clock is behind went back, whatever its indexes: those of a Consul that was
// put back go on above all that were given out. What it lacks is not forgotten, what it
// says is to be done is not done again, and nothing is decided; a restart changes none
// of that.
func TestClockBehind(t *testing.T) {
	for _, lacks := range []bool{true, false} {
		r := newRig(t)
		r.link.answers(func(s *api.Sync) { s.Clock = 50 })
		r.restart()
		late := r.volume("late")
		cfg := r.config
		r.close() // its clock is on disk from here on
		out, err := r.link.Service.Submit(t.Context(), api.Request{ID: uuid.New(), Kind: dataset.OpSnapshot, Volume: "late"})
		if err != nil {
			t.Fatal(err)
		}
		r.link.answers(func(s *api.Sync) {
			s.Index, s.Clock = 1<<40, 49
			if lacks {
				s.Datasets = slices.DeleteFunc(s.Datasets, func(d api.Indexed) bool { return d.ID == late.ID })
			}
		})
		r.start(cfg)
		for range 2 {
			r.restart()
			if got := r.doubts(); !strings.Contains(got, "older than what this node has") {
				t.Fatalf("lacks %t: doctor says %q", lacks, got)
			}
			await(t, func() bool { return len(r.Jobs.Running()) == 0 })
			if op, known := r.operations.Lookup(t.Context(), out.Operation.ID); !known || op.State != dataset.OpPending {
				t.Errorf("lacks %t: an operation of the older store was carried out: it is %s", lacks, op.State)
			}
			r.mount(late, "id")
			r.want(late, "id")
			if err := r.Unmount(t.Context(), "late", "id"); err != nil {
				t.Error(err)
			}
		}
	}
}

// The clock is written when it has moved, and never else.
func TestClockIsKept(t *testing.T) {
	r := newRig(t)
	r.storeClock.Raise(7)
	r.storeClock.Raise(5)
	if err := r.storeClock.Save(t.Context()); err != nil {
		t.Fatal(err)
	}
	e, err := r.config.State.Get(t.Context(), registration.ClockKey)
	if err != nil || string(e.Value) != "7" {
		t.Fatalf("%s, %v", e.Value, err)
	}
	r.storeClock.Raise(7)
	if err := r.storeClock.Save(t.Context()); err != nil {
		t.Fatal(err)
	}
	if again, err := r.config.State.Get(t.Context(), registration.ClockKey); err != nil || again.Index != e.Index {
		t.Errorf("it was written again, %v", err)
	}
}
