package chaos

import (
	"sync"
	"time"

	"github.com/droverhq/drover/test/cluster"
	"github.com/droverhq/drover/test/lan"
)

// partitions cuts the network between machines, and counts for each cut how many faults need it. Safe for concurrent
// use.
type partitions struct {
	cluster *cluster.Cluster

	mu   sync.Mutex
	cuts map[cut]int
}

// cut is one direction between two machines.
type cut struct{ from, to *lan.Machine }

// cut cuts the network for a while. If another fault has made the same cut, it stays until both faults are
// over.
func (p *partitions) cut(f Fault, cuts []cut) {
	p.split(cuts)
	time.Sleep(f.Duration)
	p.join(cuts)
}

func (p *partitions) split(cuts []cut) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, c := range cuts {
		if p.cuts[c]++; p.cuts[c] == 1 {
			p.cluster.Net.PartitionOneWay(c.from, c.to)
		}
	}
}

func (p *partitions) join(cuts []cut) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, c := range cuts {
		if p.cuts[c]--; p.cuts[c] == 0 {
			p.cluster.Net.HealOneWay(c.from, c.to)
		}
	}
}

// toControl returns the cuts from a machine to each control replica.
func (p *partitions) toControl(m *lan.Machine) (cuts []cut) {
	for _, r := range p.cluster.Controls {
		cuts = append(cuts, cut{m, r.On})
	}
	return cuts
}

// fromControl returns the cuts from each control replica to a machine.
func (p *partitions) fromControl(m *lan.Machine) (cuts []cut) {
	for _, c := range p.toControl(m) {
		cuts = append(cuts, cut{c.to, c.from})
	}
	return cuts
}

// cutsAround returns the cuts between a machine and all others, in both directions.
func (p *partitions) cutsAround(m *lan.Machine) (cuts []cut) {
	for _, other := range p.cluster.Net.Machines() {
		if other != m {
			cuts = append(cuts, cut{m, other}, cut{other, m})
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
