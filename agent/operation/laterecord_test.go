package operation_test

import (
	"context"
	"errors"
	"path/filepath"
	"testing"

	"github.com/google/uuid"

	"github.com/droverhq/drover/agent"
	"github.com/droverhq/drover/agent/agenttest"
	"github.com/droverhq/drover/agent/host"
	"github.com/droverhq/drover/agent/pool"
	"github.com/droverhq/drover/backends"
	"github.com/droverhq/drover/control/api"
	"github.com/droverhq/drover/dataset"
)

// lateControl is a connection to a control that does not answer Record, and gets the request late.
type lateControl struct {
	api.Service
	records chan api.Report
}

func (c lateControl) Record(ctx context.Context, _ uuid.UUID, r api.Report) error {
	c.records <- r
	<-ctx.Done()
	return dataset.Errorf(dataset.ErrUnavailable, "no answer: %w", ctx.Err())
}

// A create takes so long that the agent asks control to record it, and control gets the request only after the create
// has ended. The create is not repeated, whatever happened to its volume.
func TestLateRecordDoesNotRepeatCreate(t *testing.T) {
	for _, fails := range []bool{false, true} {
		h, late := &agenttest.HangingBackend{}, lateControl{records: make(chan api.Report, 1)}
		r := agenttest.New(t, func(c *agent.Config) {
			c.Backends = backends.NewRegistry(h)
			c.Pools = append(c.Pools, pool.Config{Name: "other", Backend: "dir", Path: filepath.Join(c.Root, "other")})
			late.Service = c.Control
			c.Control = late
		})
		t.Cleanup(h.Resume)
		h.Mu.Lock()
		h.Fails = fails
		h.Mu.Unlock()
		h.Hang("create")
		made := make(chan error, 1)
		go func() { made <- r.Create(t.Context(), "db", map[string]string{"pool": "other"}) }()
		agenttest.Await(t, func() bool { return h.Calls() == 1 })
		var record api.Report
		agenttest.Await(t, func() bool {
			r.FakeClock.Advance(host.RecordAfter)
			select {
			case record = <-late.records:
				return true
			default:
				return false
			}
		})
		h.Resume()
		if err := <-made; (err != nil) != fails {
			t.Fatal(err)
		}
		want := dataset.OpDone
		if fails {
			want = dataset.OpFailed
		}
		if err := late.Service.Record(t.Context(), r.NodeID, record); err != nil {
			t.Error(err)
		}
		agenttest.Await(t, func() bool { return r.Jobs.Count() == 0 }) // a failure is reported by a job
		op, err := r.Control.Operation(t.Context(), record.Operation.ID.String(), 0)
		if err != nil || op.State != want {
			t.Errorf("the operation is %s, %v: want %s", op.State, err, want)
		}
		if _, err := r.Control.Volume(t.Context(), "db"); errors.Is(err, dataset.ErrNotFound) != fails {
			t.Error(err)
		}
	}
}
