package doctor_test

import (
	"context"
	"sync/atomic"
	"testing"

	"github.com/droverhq/drover/agent"
	"github.com/droverhq/drover/agent/agenttest"
	"github.com/droverhq/drover/control/api"
)

// countedProfiles counts the requests for the profiles.
type countedProfiles struct {
	api.Service
	requests atomic.Int64
}

func (c *countedProfiles) Profiles(ctx context.Context) ([]api.ListedProfile, error) {
	c.requests.Add(1)
	return c.Service.Profiles(ctx)
}

// An examination that has found out that control does not answer sends it no other request: each one would wait until
// it times out.
func TestSilentControlIsNotAskedAgain(t *testing.T) {
	var control *countedProfiles
	r := agenttest.New(t, func(cfg *agent.Config) {
		control = &countedProfiles{Service: cfg.Control}
		cfg.Control = control
	})
	agenttest.Await(t, func() bool { return !r.Jobs.IsRunning("keys") })
	ask := func() int64 {
		before := control.requests.Load()
		if _, err := r.Doctor(t.Context()); err != nil {
			t.Fatal(err)
		}
		return control.requests.Load() - before
	}
	if n := ask(); n == 0 {
		t.Error("a control that answers was not asked for its profiles")
	}
	r.Link.Cut()
	if n := ask(); n != 0 {
		t.Errorf("a silent control was asked for its profiles %d times", n)
	}
	r.Link.Mend()
}
