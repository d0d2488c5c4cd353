package registration_test

import (
	"context"
	"sync"
	"testing"
	"time"

	"github.com/google/uuid"

	"github.com/droverhq/drover/agent"
	"github.com/droverhq/drover/agent/agenttest"
	"github.com/droverhq/drover/agent/controlsync"
	"github.com/droverhq/drover/control/api"
	"github.com/droverhq/drover/dataset"
	"github.com/droverhq/drover/internal/linux/facts"
)

// told is a control that keeps the facts that nodes report.
type told struct {
	api.Service
	mu    sync.Mutex
	facts []dataset.Facts
	away  bool
}

func (c *told) Facts(_ context.Context, _ uuid.UUID, r api.FactsReport) (dataset.Facts, error) {
	c.mu.Lock()
	away := c.away
	if !away {
		c.facts = append(c.facts, r.Facts)
	}
	c.mu.Unlock()
	if away {
		return dataset.Facts{}, dataset.Errorf(dataset.ErrUnavailable, "control is away")
	}
	return r.Facts, nil
}

func (c *told) count() int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return len(c.facts)
}

// TestFactsAreReportedWhenTheyChange counts the requests to control: none from a node whose facts stay the same, and
// at most one a minute from a node whose load changes.
func TestFactsAreReportedWhenTheyChange(t *testing.T) {
	m := agenttest.NewMachine()
	var c *told
	r := agenttest.New(t, func(cfg *agent.Config) {
		c = &told{Service: cfg.Control}
		cfg.Control = c
		cfg.Host = facts.Host{FS: m.Files, Machine: func() (string, error) { return "x86_64", nil }}
		cfg.Engine = func() controlsync.Engine { return controlsync.Engine{Version: "28.0.1", Swarm: "s1"} }
		cfg.Labels = map[string]string{"rack": "r1"}
	})
	r.Stop() // from now on only the test checks the facts, as the heartbeat would
	if c.count() != 1 {
		t.Fatalf("told %d times at the start", c.count())
	}
	first := c.facts[0]
	if first.Node != r.NodeID || !first.Virtual || first.Engine != "28.0.1" || first.Swarm != "s1" || first.Load10 != 20 || len(first.Backends) != 1 || first.Backends[0] != "dir" ||
		len(first.Pools) != 1 || first.Pools[0].Name != "default" || first.Pools[0].Backend != "dir" {
		t.Errorf("%+v", first)
	}
	pass := func(d time.Duration) { // rounds of the heartbeat
		for range int(d / (10 * time.Second)) {
			r.FakeClock.Advance(10 * time.Second)
			r.Facts.Report(t.Context())
		}
	}
	pass(time.Hour)
	steady := c.count()
	if steady > 2 { // now that the pool is closed
		t.Fatalf("told %d times in an hour in which nothing changed", steady-1)
	}
	m.SetLoad(60)
	pass(10 * time.Minute)
	if n := c.count() - steady; n < 2 || n > 10 {
		t.Errorf("told %d times in ten minutes of a load that rose", n)
	}
	last := c.facts[len(c.facts)-1]
	if last.Load1 != 60 || last.Load10 < 40 || last.Load10 > 60 {
		t.Errorf("after ten minutes of 60: %+v", last)
	}

	// While control is unreachable the report is repeated. Then control gets the present facts.
	c.away = true
	m.SetLoad(5)
	before := c.count()
	pass(5 * time.Minute)
	c.away = false
	pass(10 * time.Second)
	if c.count() != before+1 || c.facts[before].Load1 != 5 {
		t.Errorf("after control was away: told %d times", c.count()-before)
	}
	r.Facts.ReportAgain() // as for another control
	pass(10 * time.Second)
	if c.count() != before+2 {
		t.Error("a new control was not told")
	}
}
