package chaos

import (
	"sync"
	"time"

	"github.com/droverhq/drover/test/lan"
)

// cut cuts the network for a while.
func (i *injector) cut(f Fault, cuts []lan.Cut) {
	for _, c := range cuts {
		i.Net.PartitionOneWay(c.From, c.To)
	}
	time.Sleep(f.Duration)
	for _, c := range cuts {
		i.Net.HealOneWay(c.From, c.To)
	}
}

// toControl returns the cuts from a machine to each control replica.
func (i *injector) toControl(m *lan.Machine) (cuts []lan.Cut) {
	for _, r := range i.Controls {
		cuts = append(cuts, lan.Cut{From: m, To: r.On})
	}
	return cuts
}

// fromControl returns the cuts from each control replica to a machine.
func (i *injector) fromControl(m *lan.Machine) (cuts []lan.Cut) {
	for _, r := range i.Controls {
		cuts = append(cuts, lan.Cut{From: r.On, To: m})
	}
	return cuts
}

// cutsAround returns the cuts between a machine and all others, in both directions.
func (i *injector) cutsAround(m *lan.Machine) (cuts []lan.Cut) {
	for _, other := range i.Net.Machines() {
		if other != m {
			cuts = append(cuts, lan.Cut{From: m, To: other}, lan.Cut{From: other, To: m})
		}
	}
	return cuts
}

// parts reserves the parts of the cluster that faults affect, such as a host or Consul. Safe for concurrent use.
type parts struct {
	mu    sync.Mutex
	locks map[string]*sync.Mutex // held by the fault that affects the part
}

// reserve reserves the part that a fault affects until done is called. It waits until an earlier fault has released the
// part, because a fault may end later than planned.
func (p *parts) reserve(name string) (done func()) {
	p.mu.Lock()
	lock := p.locks[name]
	if lock == nil {
		lock = &sync.Mutex{}
		p.locks[name] = lock
	}
	p.mu.Unlock()
	lock.Lock()
	return lock.Unlock
}
