// Package generation_test tests the generation part of package pooladmin. It is a folder of its own, so that it runs beside the other tests.
package generation_test

import (
	"cmp"
	"encoding/json"
	"errors"
	"maps"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/droverhq/drover/agent"
	"github.com/droverhq/drover/agent/agenttest"
	"github.com/droverhq/drover/agent/controlsync"
	"github.com/droverhq/drover/agent/pool"
	"github.com/droverhq/drover/agent/pooladmin"
	"github.com/droverhq/drover/control/api"
	"github.com/droverhq/drover/dataset"
	"github.com/droverhq/drover/internal/linux/facts"
	"github.com/droverhq/drover/test/assert"
	"github.com/droverhq/drover/test/require"
)

// pair is a rig whose agent has two control replicas on one store.
type pair struct {
	*agenttest.Host
	other     *agenttest.Link
	otherAnew func()
}

func newPair(t *testing.T) *pair {
	t.Helper()
	p := &pair{Host: agenttest.New(t, func(c *agent.Config) {
		c.Host = facts.Host{FS: agenttest.NewMachine().Files, Machine: facts.Machine} // its load stays constant
	})}
	at(p.Host, 1)
	p.other, p.otherAnew = p.Cluster.AddReplica()
	p.ControlReplicas = []api.Service{p.Link, p.other}
	p.Restart()
	p.heard(2)
	return p
}

// heard waits until the pool has a generation, and both replicas know it.
func (p *pair) heard(generation uint64) {
	p.T.Helper()
	at(p.Host, generation)
	p.told(p.other, generation, controlsync.SettleTime)
}

// uses keeps a volume in use until its pool was raised and the store knows the generation.
func (p *pair) uses(d dataset.Dataset) {
	p.T.Helper()
	g := p.Pools.All()[0].Generation + 1
	p.MountDataset(d, "container")
	p.FakeClock.Advance(pool.RaiseEvery)
	p.heard(g)
	agenttest.Await(p.T, func() bool { return p.highest() == g })
}

// told waits until a replica knows a generation, while time passes in steps.
func (p *pair) told(l *agenttest.Link, generation uint64, step time.Duration) {
	p.T.Helper()
	agenttest.Await(p.T, func() bool {
		p.FakeClock.Advance(step)
		return l.HighestGeneration() == generation
	})
}

func (p *pair) ends(d dataset.Dataset) {
	p.T.Helper()
	require.NoError(p.T, p.Unmount(p.T.Context(), d.Volume, "container"))
}

// onRecord returns the indexes of all entries of the store.
func (p *pair) onRecord() map[string]uint64 {
	p.T.Helper()
	list, err := p.Cluster.ControlStore.List(p.T.Context(), "", "", 0)
	require.NoError(p.T, err)
	out := map[string]uint64{}
	for _, e := range list {
		out[e.Key] = e.Index
	}
	return out
}

// highest returns the generation of the pool that the store has recorded.
func (p *pair) highest() uint64 {
	p.T.Helper()
	e, err := p.Cluster.ControlStore.Get(p.T.Context(), "generations/"+p.Pools.All()[0].ID.String())
	var v struct{ Highest uint64 }
	if err == nil {
		err = json.Unmarshal(e.Value, &v)
	}
	require.NoError(p.T, err)
	return v.Highest
}

// back saves the present state of the host: the pool and the agent's record of it. The returned function stops the
// host, restores that state, calls meanwhile and starts the host.
func (p *pair) back() (putBack func(meanwhile func())) {
	p.T.Helper()
	rec, pool := p.Pools.All()[0].Record, p.SavePool("pool")
	return func(meanwhile func()) {
		p.T.Helper()
		cfg := p.Config
		p.Stop()
		pool()
		require.NoError(p.T, p.DB.Put(p.T.Context(), map[string]any{"pools/default": rec}))
		meanwhile()
		p.StartWith(cfg)
	}
}

func (p *pair) isHeld(want bool, what string) {
	p.T.Helper()
	if pl := p.Pools.All()[0]; (pl.QuarantineReason() != "") != want {
		p.T.Errorf("%s: generation %d of %d, held: %q", what, pl.Generation, pl.Record.Generation, pl.QuarantineReason())
	}
}

// While a volume stays in use for hours its pool is raised and every replica is notified, and nothing is written to
// the store. The store is notified of the first raise after a mount, and at a start.
func TestRaisesOfVolumeInUseWriteNothingToStore(t *testing.T) {
	t.Parallel()
	p := newPair(t)
	d := p.NewVolume("db")
	p.uses(d)
	before := p.onRecord()
	g := uint64(3)
	for range 18 {
		g++
		p.FakeClock.Advance(pool.RaiseEvery)
		p.heard(g)
	}
	if now := p.onRecord(); !maps.Equal(before, now) {
		t.Errorf("on record was %v and is %v", before, now)
	}
	p.ends(d)
	p.Restart()
	p.heard(g + 1)
	agenttest.Await(t, func() bool { return p.highest() == g+1 })
}

// A generation that was not written to the store is known from the memory of a single replica, even if everything
// else was restored or restarted. If no replica remembers it, the last raise in the store decides.
func TestRestoredDiskIsFoundByControlMemory(t *testing.T) {
	t.Parallel()
	for what, c := range map[string]struct {
		early  bool          // the disk is restored from before the generation in the store
		before func(p *pair) // while the agent runs
		down   func(p *pair) // while the agent is down
		held   bool          // at the start
		then   bool          // once the other replica is reachable again
	}{
		"both know":        {down: func(*pair) {}, held: true},
		"one does":         {down: func(p *pair) { p.RestartControl() }, held: true},
		"the other does":   {down: func(p *pair) { p.otherAnew() }, held: true},
		"none does":        {down: func(p *pair) { p.RestartControl(); p.otherAnew() }},
		"the store does":   {early: true, down: func(p *pair) { p.RestartControl(); p.otherAnew() }, held: true},
		"one is away":      {down: func(p *pair) { p.other.Cut() }, held: true, then: true},
		"who does is away": {down: func(p *pair) { p.RestartControl(); p.other.Cut() }, then: true},
		"one was anew": {before: func(p *pair) {
			p.other.ForgetGenerations()
			p.otherAnew()
			p.told(p.other, 5, p.Timing.Heartbeat)
		}, down: func(p *pair) { p.RestartControl() }, held: true},
		"one was away": {before: func(p *pair) {
			p.other.Cut()
			p.FakeClock.Advance(pool.RaiseEvery)
			at(p.Host, 6)
			p.other.Mend()
			p.told(p.other, 6, p.Timing.Heartbeat)
		}, down: func(p *pair) { p.RestartControl() }, held: true},
	} {
		t.Run(what, func(t *testing.T) {
			p := newPair(t)
			d := p.NewVolume("db")
			early := p.back()
			p.uses(d)
			putBack := p.back()
			for g := range uint64(2) {
				p.FakeClock.Advance(pool.RaiseEvery)
				p.heard(4 + g)
			}
			if c.before != nil {
				c.before(p)
			}
			p.ends(d)
			if got := p.highest(); got != 3 {
				t.Errorf("the store has %d", got)
			}
			is := uint64(3)
			if c.early {
				putBack, is = early, 2
			}
			asked := uint64(0) // the generation that control knew when it answered
			putBack(func() {
				c.down(p)
				p.other.ForgetGenerations()
				p.Link.ChangeSync(func(*api.Sync) { asked = cmp.Or(asked, p.other.HighestGeneration()) })
			})
			p.Link.ChangeSync(nil)
			if !c.then && asked != is {
				t.Errorf("the other replica was asked of generation %d", asked)
			}
			p.isHeld(c.held, "at the start")
			if !c.then {
				return
			}
			assert.NoError(t, p.Generations.Raise(t.Context()))
			if g, err := p.Pools.All()[0].Storage.Generation(); g != is || err != nil {
				t.Errorf("it is raised before each was asked: %d, %v", g, err)
			}
			p.other.Mend()
			agenttest.Await(t, func() bool {
				p.FakeClock.Advance(p.Timing.Heartbeat)
				return p.Pools.CheckQuarantine(d.Pool) != nil
			})
		})
	}
}

// A generation that an operator accepts is above all generations that any replica remembers.
func TestAcceptedGenerationIsAboveControlMemory(t *testing.T) {
	t.Parallel()
	p := newPair(t)
	d := p.NewVolume("db")
	p.uses(d)
	putBack := p.back()
	for g := range uint64(2) {
		p.FakeClock.Advance(pool.RaiseEvery)
		p.heard(4 + g)
	}
	p.Link.Cut()
	p.FakeClock.Advance(pool.RaiseEvery)
	p.told(p.other, 6, controlsync.SettleTime)
	p.ends(d)
	// The agent knows only of generation 5 when the operator accepts.
	putBack(func() {
		p.Link.Mend()
		p.other.Cut()
	})
	p.isHeld(true, "put back")
	p.other.Mend()
	_, err := p.AcceptPool(t.Context(), "default", api.AcceptPool{Confirmed: true})
	require.NoError(t, err)
	if got := p.highest(); got != 7 {
		t.Errorf("the store has %d", got)
	}
	p.heard(7)
	p.isHeld(false, "accepted")
	p.Restart()
	p.isHeld(false, "started anew")
}

// A generation that was accepted while a replica was unreachable stays accepted when the replica is reachable again,
// whatever the replica remembers. A newer disk is not taken for one that was made after the acceptance.
func TestAcceptedGenerationIsAboveUnreachableReplica(t *testing.T) {
	t.Parallel()
	p := newPair(t)
	d := p.NewVolume("db")
	p.uses(d)
	putBack := p.back()
	p.FakeClock.Advance(pool.RaiseEvery)
	p.heard(4)
	newer := p.back()
	p.Link.Cut()
	for g := range uint64(3) {
		p.FakeClock.Advance(pool.RaiseEvery)
		p.told(p.other, 5+g, controlsync.SettleTime)
	}
	p.ends(d)
	putBack(func() {
		p.Link.Mend()
		p.other.Cut()
	})
	p.isHeld(true, "put back")
	_, err := p.AcceptPool(t.Context(), "default", api.AcceptPool{Confirmed: true})
	require.NoError(t, err)
	p.isHeld(false, "accepted")
	p.other.Mend()
	agenttest.Await(t, func() bool { // the replica learns the generation that the others know
		p.FakeClock.Advance(p.Timing.Heartbeat)
		return p.other.HighestGeneration() > pooladmin.UnreportedMargin || p.Pools.All()[0].QuarantineReason() != ""
	})
	p.isHeld(false, "with the other back")
	newer(func() {})
	p.isHeld(true, "the newer disk")
}

// If a pool is adopted again on its node and nobody else knows its generation, the record of the node quarantines it.
func TestAdoptedPoolIsHeldByItsNodesRecord(t *testing.T) {
	t.Parallel()
	p := newPair(t)
	d := p.NewVolume("db")
	p.uses(d)
	putBack := p.SavePool("pool")
	p.FakeClock.Advance(pool.RaiseEvery)
	p.heard(4)
	p.ends(d)
	cfg, moved := p.Config, filepath.Join(p.Root, "moved")
	p.Stop()
	putBack()
	require.NoError(t, os.Rename(filepath.Join(p.Root, "pool"), moved))
	p.RestartControl()
	p.otherAnew()
	p.StartWith(cfg)
	if _, _, err := p.AdoptPool(t.Context(), moved, false); !errors.Is(err, dataset.ErrOffline) {
		t.Errorf("adopt: %v", err)
	}
	p.isHeld(true, "adopted")
}

func TestMain(m *testing.M) { agenttest.Main(m) }
