package chaos

import (
	"context"
	"math/rand/v2"
	"sync"
	"testing"
	"time"

	"github.com/droverhq/drover/test/cluster"
	"github.com/droverhq/drover/test/consul"
	"github.com/droverhq/drover/test/host"
	"github.com/droverhq/drover/test/lan"
)

// injector makes the faults of a plan, and awaits their end.
type injector struct {
	*scene
	disturber *disturber
	restorer  *restorer
}

// injectFaults starts the faults of the plan, each at its time, and returns when all are over.
func (i *injector) injectFaults(t testing.TB) {
	n, unseen := 0, 0
	defer func() {
		// The users that stay on one host start at once and never stop, so nearly every fault meets a writer. A
		// fault that no writer sees shows nothing.
		if unseen > 1+n/10 {
			t.Errorf("no writer was running during %d of %d faults", unseen, n)
		}
	}()
	var all sync.WaitGroup
	defer all.Wait()
	until := time.Now().Add(time.Duration(i.opts.Seconds) * time.Second)
	for f := range Plan(i.opts.Seed) {
		if time.Now().Add(f.Delay).After(until) || t.Failed() {
			return
		}
		time.Sleep(f.Delay)
		i.restorer.awaitFaultsAllowed()
		alive := i.runningWriters()
		t.Logf("fault %s; %d writers", f, alive)
		if alive == 0 {
			unseen++
		}
		n++
		all.Go(func() { i.inject(t, f) })
	}
}

// inject carries out one fault.
func (i *injector) inject(t testing.TB, f Fault) {
	one := func() *cluster.Host { return i.Hosts[f.Targets[0]] }
	replica := func() *cluster.Control { return i.Controls[f.Targets[0]] }
	switch f.Kind {
	case AgentKilled:
		i.killHost(t, f, one().Host)
	case AgentPaused:
		i.pauseHost(t, f, one().Host)
	case GuardKilled:
		defer i.parts.reserve("guard of " + one().Name)()
		one().Guard.Kill9(t)
		time.Sleep(f.Duration)
		one().Guard.Up(t)
	case ControlKilled:
		i.killHost(t, f, replica().Host)
	case ControlPaused:
		i.pauseHost(t, f, replica().Host)
	case ConsulKilled, ConsulPaused, QuorumLost:
		var down []*consul.Server
		for _, n := range f.Targets {
			down = append(down, i.Consul.Servers[n])
		}
		i.stopConsul(f, down...)
	case LeaderKilled, LeaderPaused:
		i.stopConsul(f, i.leader(f))
	case LeaderCut:
		defer i.parts.reserve("consul")()
		i.cut(f, i.cutsAround(i.leader(f).On))
	case HostCut:
		i.cut(f, append(i.toControl(one().On), i.fromControl(one().On)...))
	case HostMute:
		i.cut(f, i.toControl(one().On))
	case HostDeaf:
		i.cut(f, i.fromControl(one().On))
	case HostAlone:
		i.cut(f, i.cutsAround(one().On))
	case PeersCut, PeersDeaf:
		a, b := one().On, i.Hosts[f.Targets[1]].On
		cuts := []lan.Cut{{From: a, To: b}}
		if f.Kind == PeersCut {
			cuts = append(cuts, lan.Cut{From: b, To: a})
		}
		i.cut(f, cuts)
	case ControlCut, ControlDeaf:
		var cuts []lan.Cut
		for _, s := range i.Consul.Servers {
			cuts = append(cuts, lan.Cut{From: s.On, To: replica().On})
			if f.Kind == ControlCut {
				cuts = append(cuts, lan.Cut{From: replica().On, To: s.On})
			}
		}
		i.cut(f, cuts)
	case HostLost:
		i.loseHost(t, f, one())
	case StoreRestored:
		i.restorer.restoreBackup(t, f)
	case EngineKilled, FilesCopied, CopyFailed, MountKept, Strangers, HostBusy:
		i.disturber.disturb(t, f, one())
	default:
		t.Errorf("no case for the fault %s", f.Kind)
	}
}

func (s *scene) killHost(t testing.TB, f Fault, h *host.Host) {
	defer s.parts.reserve(h.Dir)()
	h.Kill9(t)
	time.Sleep(f.Duration)
	h.Up(t)
}

func (s *scene) pauseHost(t testing.TB, f Fault, h *host.Host) {
	defer s.parts.reserve(h.Dir)()
	h.Pause(t)
	time.Sleep(f.Duration)
	h.Resume(t)
}

// stopConsul kills or pauses Consul servers for a while.
func (i *injector) stopConsul(f Fault, servers ...*consul.Server) {
	defer i.parts.reserve("consul")()
	kill := f.Kind == ConsulKilled || f.Kind == LeaderKilled
	for _, s := range servers {
		if kill {
			s.Kill()
		} else {
			s.Pause()
		}
	}
	time.Sleep(f.Duration)
	for _, s := range servers {
		if kill {
			s.Start()
		} else {
			s.Resume()
		}
	}
}

// leader returns the Consul server that leads, or one that the seed chooses if none does.
func (s *scene) leader(f Fault) *consul.Server {
	for _, server := range s.Consul.Servers {
		at := server.Leads()
		for _, l := range s.Consul.Servers {
			if l.IP == at {
				return l
			}
		}
	}
	return s.Consul.Servers[rand.New(rand.NewPCG(s.opts.Seed, uint64(f.Number))).IntN(len(s.Consul.Servers))]
}

// restartAgents restarts agents that have ended, as their systemd units do, until the returned function is called. A
// guard kills an agent that has a file open in a volume that the guard must fence.
func (i *injector) restartAgents(t testing.TB) (end func()) {
	ctx, cancel := context.WithCancel(t.Context())
	var all sync.WaitGroup
	killed := func() { i.report.count("agents killed by their guards") }
	for _, h := range i.Hosts {
		h.Killed = killed
		all.Go(func() {
			for ; ctx.Err() == nil; wait(ctx, 200*time.Millisecond) {
				done := i.parts.reserve(h.Host.Dir)
				if !h.Running() {
					killed()
					h.Up(t)
				}
				done()
			}
		})
	}
	return func() { cancel(); all.Wait() }
}

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
