package agent

import (
	"cmp"
	"encoding/json"
	"errors"
	"maps"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/droverhq/drover/agent/controlsync"
	"github.com/droverhq/drover/agent/pool"
	"github.com/droverhq/drover/agent/pooladmin"
	"github.com/droverhq/drover/control/api"
	"github.com/droverhq/drover/dataset"
	"github.com/droverhq/drover/internal/linux/facts"
)

// pair is a rig whose agent has two control replicas, on one store.
type pair struct {
	*rig
	other     *link
	otherAnew func()
}

func newPair(t *testing.T) *pair {
	t.Helper()
	p := &pair{rig: newRig(t, func(c *Config) {
		c.Host = facts.Host{FS: newMachine().files, Machine: facts.Machine} // whose load stays
	})}
	p.at(1)
	p.other, p.otherAnew = p.serve()
	p.replicas = []api.Service{p.link, p.other}
	p.restart()
	p.heard(2)
	return p
}

// heard waits until the pool is of a generation, and both replicas were told.
func (p *pair) heard(generation uint64) {
	p.t.Helper()
	p.at(generation)
	p.told(p.other, generation, controlsync.SettleTime)
}

// uses has a volume in use until its pool was raised, and the store knows.
func (p *pair) uses(d dataset.Dataset) {
	p.t.Helper()
	g := p.pools.All()[0].Generation + 1
	p.mount(d, "container")
	p.clock.Advance(pool.RaiseEvery)
	p.heard(g)
	await(p.t, func() bool { return p.highest() == g })
}

// told waits until a replica was told of a generation, while time passes in steps.
func (p *pair) told(l *link, generation uint64, step time.Duration) {
	p.t.Helper()
	await(p.t, func() bool {
		p.clock.Advance(step)
		return l.highestSaid() == generation
	})
}

func (p *pair) ends(d dataset.Dataset) {
	p.t.Helper()
	if err := p.Unmount(p.t.Context(), d.Volume, "container"); err != nil {
		p.t.Fatal(err)
	}
}

// onRecord are the indexes of all that is in the store.
func (p *pair) onRecord() map[string]uint64 {
	p.t.Helper()
	list, err := p.stored.List(p.t.Context(), "", "", 0)
	if err != nil {
		p.t.Fatal(err)
	}
	out := map[string]uint64{}
	for _, e := range list {
		out[e.Key] = e.Index
	}
	return out
}

// highest is the generation of the pool that the store has.
func (p *pair) highest() uint64 {
	p.t.Helper()
	e, err := p.stored.Get(p.t.Context(), "generations/"+p.pools.All()[0].ID.String())
	var v struct{ Highest uint64 }
	if err == nil {
		err = json.Unmarshal(e.Value, &v)
	}
	if err != nil {
		p.t.Fatal(err)
	}
	return v.Highest
}

// back keeps the host as it is now, pool and agent's own record; what it returns puts it back
// to that and starts it, after something else while it is down.
func (p *pair) back() (putBack func(meanwhile func())) {
	p.t.Helper()
	rec, pool := p.pools.All()[0].Record, p.saved("pool")
	return func(meanwhile func()) {
		p.t.Helper()
		cfg := p.config
		p.close()
		pool()
		if err := p.DB.Put(p.t.Context(), map[string]any{"pools/default": rec}); err != nil {
			p.t.Fatal(err)
		}
		meanwhile()
		p.start(cfg)
	}
}

func (p *pair) isHeld(want bool, what string) {
	p.t.Helper()
	if op := p.pools.All()[0]; (op.Held() != "") != want {
		p.t.Errorf("%s: generation %d of %d, held: %q", what, op.Generation, op.Record.Generation, op.Held())
	}
}

// A volume that stays in use for hours has its pool raised, and every replica told, and
// writes nothing to the store; that hears of the first raise after a mount, and at a start.
func TestVolumeInUseWritesNothing(t *testing.T) {
	t.Parallel()
	p := newPair(t)
	d := p.volume("db")
	p.uses(d)
	before := p.onRecord()
	g := uint64(3)
	for range 18 {
		g++
		p.clock.Advance(pool.RaiseEvery)
		p.heard(g)
	}
	if now := p.onRecord(); !maps.Equal(before, now) {
		t.Errorf("on record was %v and is %v", before, now)
	}
	p.ends(d)
	p.restart()
	p.heard(g + 1)
	await(t, func() bool { return p.highest() == g+1 })
}

// What was told in passing is known by the memory of one replica alone, when everything else
// was put back or started anew; when no memory is left the store's last raise decides.
func TestPutBackIsKnownByMemory(t *testing.T) {
	t.Parallel()
	for what, c := range map[string]struct {
		early  bool          // it is put back to before what the store has
		before func(p *pair) // with the agent up
		down   func(p *pair) // with the agent down
		held   bool          // at once
		then   bool          // once the other replica is back
	}{
		"both know":        {down: func(*pair) {}, held: true},
		"one does":         {down: func(p *pair) { p.anew() }, held: true},
		"the other does":   {down: func(p *pair) { p.otherAnew() }, held: true},
		"none does":        {down: func(p *pair) { p.anew(); p.otherAnew() }},
		"the store does":   {early: true, down: func(p *pair) { p.anew(); p.otherAnew() }, held: true},
		"one is away":      {down: func(p *pair) { p.other.away() }, held: true, then: true},
		"who does is away": {down: func(p *pair) { p.anew(); p.other.away() }, then: true},
		"one was anew": {before: func(p *pair) {
			p.other.forgetSaid()
			p.otherAnew()
			p.told(p.other, 5, p.Limits.Heartbeat)
		}, down: func(p *pair) { p.anew() }, held: true},
		"one was away": {before: func(p *pair) {
			p.other.away()
			p.clock.Advance(pool.RaiseEvery)
			p.at(6)
			p.other.back()
			p.told(p.other, 6, p.Limits.Heartbeat)
		}, down: func(p *pair) { p.anew() }, held: true},
	} {
		t.Run(what, func(t *testing.T) {
			p := newPair(t)
			d := p.volume("db")
			early := p.back()
			p.uses(d)
			putBack := p.back()
			for g := range uint64(2) {
				p.clock.Advance(pool.RaiseEvery)
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
			asked := uint64(0) // when control said what is to be done
			putBack(func() {
				c.down(p)
				p.other.forgetSaid()
				p.link.answers(func(*api.Sync) { asked = cmp.Or(asked, p.other.highestSaid()) })
			})
			p.link.answers(nil)
			if !c.then && asked != is {
				t.Errorf("the other replica was asked of generation %d", asked)
			}
			p.isHeld(c.held, "at the start")
			if !c.then {
				return
			}
			if err := p.generations.Raise(t.Context()); err != nil {
				t.Error(err)
			}
			if g, err := p.pools.All()[0].Storage.Generation(); g != is || err != nil {
				t.Errorf("it is raised before each was asked: %d, %v", g, err)
			}
			p.other.back()
			await(t, func() bool {
				p.clock.Advance(p.Limits.Heartbeat)
				return p.pools.Free(d.Pool) != nil
			})
		})
	}
}

// What a person accepts is above all that any replica has in memory.
func TestAcceptedIsAboveMemory(t *testing.T) {
	t.Parallel()
	p := newPair(t)
	d := p.volume("db")
	p.uses(d)
	putBack := p.back()
	for g := range uint64(2) {
		p.clock.Advance(pool.RaiseEvery)
		p.heard(4 + g)
	}
	p.link.away()
	p.clock.Advance(pool.RaiseEvery)
	p.told(p.other, 6, controlsync.SettleTime)
	p.ends(d)
	// The agent has heard of 5 alone when the word is said.
	putBack(func() {
		p.link.back()
		p.other.away()
	})
	p.isHeld(true, "put back")
	p.other.back()
	if _, err := p.AcceptPool(t.Context(), "default", api.AcceptPool{Confirmed: true}); err != nil {
		t.Fatal(err)
	}
	if got := p.highest(); got != 7 {
		t.Errorf("the store has %d", got)
	}
	p.heard(7)
	p.isHeld(false, "accepted")
	p.restart()
	p.isHeld(false, "started anew")
}

// What is accepted while a replica is away stays so when that is back, whatever it remembers; and
// a newer disk is not taken for one that came after.
func TestAcceptedIsAboveWhatIsAway(t *testing.T) {
	t.Parallel()
	p := newPair(t)
	d := p.volume("db")
	p.uses(d)
	putBack := p.back()
	p.clock.Advance(pool.RaiseEvery)
	p.heard(4)
	newer := p.back()
	p.link.away()
	for g := range uint64(3) {
		p.clock.Advance(pool.RaiseEvery)
		p.told(p.other, 5+g, controlsync.SettleTime)
	}
	p.ends(d)
	putBack(func() {
		p.link.back()
		p.other.away()
	})
	p.isHeld(true, "put back")
	if _, err := p.AcceptPool(t.Context(), "default", api.AcceptPool{Confirmed: true}); err != nil {
		t.Fatal(err)
	}
	p.isHeld(false, "accepted")
	p.other.back()
	await(t, func() bool { // it is told of what was told to others
		p.clock.Advance(p.Limits.Heartbeat)
		return p.other.highestSaid() > pooladmin.Unheard || p.pools.All()[0].Held() != ""
	})
	p.isHeld(false, "with the other back")
	newer(func() {})
	p.isHeld(true, "the newer disk")
}

// A pool that is adopted anew on its node is held by what that knows itself, when nobody else
// does.
func TestAdoptedPoolIsKnownByItsNode(t *testing.T) {
	t.Parallel()
	p := newPair(t)
	d := p.volume("db")
	p.uses(d)
	putBack := p.saved("pool")
	p.clock.Advance(pool.RaiseEvery)
	p.heard(4)
	p.ends(d)
	cfg, moved := p.config, filepath.Join(p.root, "moved")
	p.close()
	putBack()
	if err := os.Rename(filepath.Join(p.root, "pool"), moved); err != nil {
		t.Fatal(err)
	}
	p.anew()
	p.otherAnew()
	p.start(cfg)
	if _, _, err := p.AdoptPool(t.Context(), moved); !errors.Is(err, dataset.ErrOffline) {
		t.Errorf("adopt: %v", err)
	}
	p.isHeld(true, "adopted")
}
