package operation_test

import (
	"archive/tar"
	"bytes"
	"context"
	"errors"
	"fmt"
	"sync/atomic"
	"testing"

	"github.com/google/uuid"

	"github.com/droverhq/drover/agent"
	"github.com/droverhq/drover/agent/agenttest"
	"github.com/droverhq/drover/control/api"
	"github.com/droverhq/drover/dataset"
)

// wantIdle fails unless control shows a volume as idle, with its usage.
func wantIdle(t *testing.T, r *agenttest.Host, d dataset.Dataset, what string, used dataset.Size) {
	t.Helper()
	v, err := r.Control.Volume(t.Context(), d.ID.String())
	if err != nil || v.Status == nil {
		t.Fatalf("%s: %+v, %v", what, v.Status, err)
	}
	if v.Status.Mounted || v.Status.Problem != "" || v.Status.InPool == nil || *v.Status.InPool < used {
		t.Errorf("%s: %+v", what, v.Status)
	}
}

// Users who look at a volume that was just created, cloned, imported or restored from the trash see its status. The
// clock of the test does not move, so no heartbeat reports it.
func TestStatusIsKnownAfterCreate(t *testing.T) {
	for name, start := range map[string]func(t *testing.T) *agenttest.Host{
		"loop": func(t *testing.T) *agenttest.Host { return newLoopHost(t, 0) },
		"dir":  func(t *testing.T) *agenttest.Host { return agenttest.New(t) },
	} {
		t.Run(name, func(t *testing.T) {
			r, ctx := start(t), t.Context()
			var used dataset.Size
			if name == "loop" {
				used = 1
			}
			made := r.NewVolume("db")
			wantIdle(t, r, made, "create", used)
			wantIdle(t, r, r.NewVolume("copy", map[string]string{"from": "db"}), "clone", used)
			var archive bytes.Buffer
			if err := tar.NewWriter(&archive).Close(); err != nil {
				t.Fatal(err)
			}
			imported, err := r.Import(ctx, api.Request{ID: uuid.New(), Volume: "imported"}, &archive)
			if err != nil {
				t.Fatal(err)
			}
			wantIdle(t, r, imported, "import", used)
			if err := r.Remove(ctx, "db"); err != nil {
				t.Fatal(err)
			}
			_, err = r.Link.Service.Submit(ctx, api.Request{ID: uuid.New(), Kind: dataset.OpUndelete, Volume: made.ID.String()})
			if err != nil {
				t.Fatal(err)
			}
			wantIdle(t, r, made, "restored from the trash", used)
		})
	}
}

// olderControl is a control of an earlier version, which does not know the key status of a report.
type olderControl struct {
	api.Service
	form    string // of the refusal
	refused *atomic.Int32
	reports *atomic.Int32
}

func (c olderControl) Commit(ctx context.Context, node uuid.UUID, r api.Report) (api.Committed, error) {
	c.reports.Add(1)
	if r.Status != nil {
		c.refused.Add(1)
		return api.Committed{}, dataset.Errorf(dataset.ErrInvalid, "%s", c.form)
	}
	return c.Service.Commit(ctx, node, r)
}

// A control of an earlier version refuses the status: the agent reports the outcome without it, and does not send it
// with each later report.
func TestOlderControlGetsNoStatus(t *testing.T) {
	for _, form := range []string{`bad request: body: bad JSON: unknown field "status"`, "bad request: unknown field body.status"} {
		var refused, reports atomic.Int32
		r := agenttest.New(t, func(c *agent.Config) {
			c.Control = olderControl{c.Control, form, &refused, &reports}
		})
		for i := range 3 {
			r.NewVolume(fmt.Sprintf("db%d", i))
		}
		if refused.Load() != 1 || reports.Load() != 4 {
			t.Errorf("%s: %d reports of three volumes, of which %d had the status", form, reports.Load(), refused.Load())
		}
		// Another refusal is reported as it is.
		if err := r.Create(t.Context(), "no spaces", nil); !errors.Is(err, dataset.ErrInvalid) {
			t.Errorf("%v", err)
		}
	}
}

// refusingControl refuses each report with a text that looks like the refusal of the key status.
type refusingControl struct {
	api.Service
	reports *atomic.Int32
}

func (c refusingControl) Commit(ctx context.Context, node uuid.UUID, r api.Report) (api.Committed, error) {
	if c.reports.Add(1) > 100 {
		return c.Service.Commit(ctx, node, r) // the test fails, and ends
	}
	return api.Committed{}, dataset.Errorf(dataset.ErrInvalid, `bad request: body: bad JSON: unknown field "status"`)
}

// A control that refuses a report without a status is not asked again and again. The outcome of the report is not in
// doubt: the refusal of the status was no lost answer. So the new dataset is removed.
func TestRefusalWithoutStatusIsNotRepeated(t *testing.T) {
	var reports atomic.Int32
	r := agenttest.New(t, func(c *agent.Config) { c.Control = refusingControl{c.Control, &reports} })
	if err := r.Create(t.Context(), "db", nil); dataset.KindOf(err) != dataset.ErrInvalid {
		t.Errorf("create: %v after %d reports", err, reports.Load())
	}
	p, _ := r.Pools.ByName("default")
	if entries, err := p.Storage.List(t.Context()); err != nil || len(entries) != 0 {
		t.Errorf("left in the pool: %+v, %v", entries, err)
	}
}
