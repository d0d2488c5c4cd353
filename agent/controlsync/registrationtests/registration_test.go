// Package registration_test tests the registration part of package controlsync. It is a folder of its own, so that it runs beside the other tests.
package registration_test

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/sirupsen/logrus"

	"github.com/droverhq/drover/agent"
	"github.com/droverhq/drover/agent/agenttest"
	"github.com/droverhq/drover/agent/controlsync"
	"github.com/droverhq/drover/agent/host"
	"github.com/droverhq/drover/control/api"
	"github.com/droverhq/drover/control/store/bolt"
	"github.com/droverhq/drover/dataset"
	"github.com/droverhq/drover/internal/clock"
	"github.com/droverhq/drover/internal/linux/facts"
	"github.com/droverhq/drover/test/assert"
	"github.com/droverhq/drover/test/require"
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

// A later format of node.json is refused, with and without the database of the agent, and the file stays unchanged. It
// is not taken for a damaged one, which would give the node another identity.
func TestB16IdentityOfALaterFormat(t *testing.T) {
	st, err := bolt.Open(t.Context(), filepath.Join(t.TempDir(), "agent.db"), bolt.Options{Clock: clock.System{}})
	require.NoError(t, err)
	t.Cleanup(func() { _ = st.Close() })
	h := &host.Host{Root: t.TempDir(), DB: host.OpenDB(st), Log: logrus.New()}
	h.Trust = host.NewTrust("")
	id := controlsync.Identity{Host: h}
	file := filepath.Join(h.Root, controlsync.IdentityFile)
	put := func(text string) {
		t.Helper()
		require.NoError(t, os.WriteFile(file, []byte(text), 0o600))
	}
	const later = `{"format":2,"node":{"new":1}}`
	for _, database := range []string{"empty", "with the identity"} {
		put(later)
		if err := id.Load(t.Context()); !errors.Is(err, dataset.ErrUnsupported) {
			t.Errorf("database %s: got %v, want %v", database, err, dataset.ErrUnsupported)
		}
		if b, err := os.ReadFile(file); err != nil || string(b) != later {
			t.Errorf("database %s: the file has %q, %v", database, b, err)
		}
		put("damaged")
		assert.NoErrorf(t, id.Load(t.Context()), "database %s, damaged file", database)
	}
	put(later)
	if _, err := controlsync.KnownNode(h.Root); !errors.Is(err, dataset.ErrUnsupported) {
		t.Errorf("known node: got %v, want %v", err, dataset.ErrUnsupported)
	}
	node := uuid.New()
	put(`{"node":"` + node.String() + `"}`)
	if known, err := controlsync.KnownNode(h.Root); err != nil || known != node {
		t.Errorf("file without a format: %s, %v; want %s", known, err, node)
	}
}

// I1: once control has said that this node was removed, the node mounts nothing for new containers, because its volumes
// may be opened elsewhere. A restart while control does not answer changes nothing. Containers that run keep theirs.
func TestI1RemovedNodeMountsNothing(t *testing.T) {
	r := agenttest.New(t)
	d := r.NewVolume("db")
	r.NewVolume("idle")
	r.MustMount("db", "before")
	how := api.NodeRemoval{Force: true}
	if _, err := r.Cluster.Service.RemoveNode(t.Context(), r.NodeID.String(), how); err != nil {
		t.Fatal(err)
	}
	r.Link.Cut()
	r.Link.Mend() // the agent registers again
	agenttest.Await(t, func() bool {
		r.FakeClock.Advance(time.Second)
		return r.Membership.Check() != nil
	})
	refused := func(when string) {
		t.Helper()
		for _, volume := range []string{"db", "idle"} {
			if _, err := r.Mount(t.Context(), volume, "new"); !errors.Is(err, dataset.ErrRemoved) {
				t.Errorf("%s: mount of %s: %v, want that the node was removed", when, volume, err)
			}
		}
		r.WantUses(d, "before")
	}
	refused("before a restart")
	r.Link.Cut()
	r.Restart()
	refused("after a restart without control")
	r.MustUnmount("db", "before")
}

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
		require.NoError(t, err)
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
			assert.NoError(t, r.Unmount(t.Context(), "late", "id"))
		}
	}
}

// The clock is written only when it has advanced.
func TestStoreClockIsSavedWhenItMoves(t *testing.T) {
	r := agenttest.New(t)
	r.StoreClock.Raise(7)
	r.StoreClock.Raise(5)
	require.NoError(t, r.StoreClock.Save(t.Context()))
	e, err := r.Config.State.Get(t.Context(), controlsync.ClockKey)
	if err != nil || string(e.Value) != "7" {
		t.Fatalf("%s, %v", e.Value, err)
	}
	r.StoreClock.Raise(7)
	require.NoError(t, r.StoreClock.Save(t.Context()))
	if again, err := r.Config.State.Get(t.Context(), controlsync.ClockKey); err != nil || again.Index != e.Index {
		t.Errorf("it was written again, %v", err)
	}
}

func TestMain(m *testing.M) { agenttest.Main(m) }
