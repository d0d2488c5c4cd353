package dataset

import (
	"testing"
	"time"

	"github.com/google/uuid"
)

func someFacts() Facts {
	return Facts{
		Node: uuid.UUID{1}, Taken: time.Unix(1, 0), Architecture: "x86_64", Kernel: "6.1", OS: "debian", OSVersion: "12", Engine: "28.0", CPUs: 4,
		MemoryTotal: 100 << 30, MemoryFree: 50 << 30, Load1: 20, Load10: 20, Load15: 20, Backends: []string{"dir", "loop"},
		Pools: []PoolFacts{{ID: uuid.UUID{2}, Name: "fast", Backend: "loop", Online: true, Size: 1000, Free: 500}},
	}
}

func TestFactsDifferByTenPercent(t *testing.T) {
	for _, c := range []struct {
		name   string
		before func(*Facts) // changes what is on record
		change func(*Facts)
		want   bool
	}{
		{"nothing", nil, func(*Facts) {}, false},
		{"time alone", nil, func(f *Facts) { f.Taken = time.Unix(999, 0) }, false},
		{"load a bit up", nil, func(f *Facts) { f.Load1 = 21.9 }, false},
		{"load 10 % up", nil, func(f *Facts) { f.Load1 = 22 }, true},
		{"load 10 % down", nil, func(f *Facts) { f.Load10 = 18 }, true},
		{"load a bit down", nil, func(f *Facts) { f.Load15 = 18.1 }, false},
		{"load of 15", nil, func(f *Facts) { f.Load15 = 30 }, true},
		{"each a bit", nil, func(f *Facts) { f.Load1, f.Load10, f.MemoryFree = 21, 21, 47<<30 }, false},
		{"idle, noise", func(f *Facts) { f.Load1 = 0.01 }, func(f *Facts) { f.Load1 = 0.3 }, false},
		{"idle no more", func(f *Facts) { f.Load1 = 0 }, func(f *Facts) { f.Load1 = 0.4 }, true},
		{"memory 10 % less", nil, func(f *Facts) { f.MemoryFree = 45 << 30 }, true},
		{"memory a bit less", nil, func(f *Facts) { f.MemoryFree = 46 << 30 }, false},
		{"memory short, noise", func(f *Facts) { f.MemoryFree = 1 << 30 }, func(f *Facts) { f.MemoryFree = 1<<30 + 1<<29 }, false},
		{"memory short, more", func(f *Facts) { f.MemoryFree = 1 << 30 }, func(f *Facts) { f.MemoryFree = 2 << 30 }, true},
		{"more memory in all", nil, func(f *Facts) { f.MemoryTotal = 110 << 30 }, true},
		{"kernel", nil, func(f *Facts) { f.Kernel = "6.12" }, true},
		{"engine", nil, func(f *Facts) { f.Engine = "" }, true},
		{"architecture", nil, func(f *Facts) { f.Architecture = "aarch64" }, true},
		{"os", nil, func(f *Facts) { f.OS = "alpine" }, true},
		{"os version", nil, func(f *Facts) { f.OSVersion = "13" }, true},
		{"virtual", nil, func(f *Facts) { f.Virtual = true }, true},
		{"node", nil, func(f *Facts) { f.Node = uuid.UUID{7} }, true},
		{"swarm", nil, func(f *Facts) { f.Swarm = "x" }, true},
		{"one CPU more", nil, func(f *Facts) { f.CPUs = 5 }, true},
		{"backends", nil, func(f *Facts) { f.Backends = []string{"dir"} }, true},
		{"pool gone", nil, func(f *Facts) { f.Pools = nil }, true},
		{"pool full", nil, func(f *Facts) { f.Pools[0].Free = 0 }, true},
		{"pool a bit fuller", nil, func(f *Facts) { f.Pools[0].Free = 460 }, false},
		{"pool 10 % fuller", nil, func(f *Facts) { f.Pools[0].Free = 450 }, true},
		{"nearly full, noise", func(f *Facts) { f.Pools[0].Free = 10 }, func(f *Facts) { f.Pools[0].Free = 3 }, false},
		{"nearly full, room", func(f *Facts) { f.Pools[0].Free = 10 }, func(f *Facts) { f.Pools[0].Free = 20 }, true},
		{"pool grown", nil, func(f *Facts) { f.Pools[0].Size = 1100 }, true},
		{"pool offline", nil, func(f *Facts) { f.Pools[0].Online = false }, true},
		{"another pool", nil, func(f *Facts) { f.Pools[0].ID = uuid.UUID{9} }, true},
		{"pool renamed", nil, func(f *Facts) { f.Pools[0].Name = "slow" }, true},
		{"pool of another kind", nil, func(f *Facts) { f.Pools[0].Backend = "dir" }, true},
	} {
		was, is := someFacts(), someFacts()
		if c.before != nil {
			c.before(&was)
			c.before(&is)
		}
		c.change(&is)
		if got := was.Differ(is); got != c.want {
			t.Errorf("%s: differ %v", c.name, got)
		}
	}
}

func TestNoFactsDifferFromAny(t *testing.T) {
	if !(Facts{}).Differ(someFacts()) {
		t.Error("what was never told does not differ from what is")
	}
}
