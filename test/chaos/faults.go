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
)

// injectFaults starts the faults of the plan, each at its time, and returns when all are over.
func (k *Campaign) injectFaults(t testing.TB) {
	n := 0
	defer func() {
		// The users that stay on one host start at once and never stop, so nearly every fault meets a writer. A
		// fault that no writer sees shows nothing.
		if k.report.Unseen > 1+n/10 {
			t.Errorf("%d of %d faults found nobody at work", k.report.Unseen, n)
		}
	}()
	var all sync.WaitGroup
	defer all.Wait()
	until := time.Now().Add(time.Duration(k.opts.Seconds) * time.Second)
	for f := range Plan(k.opts.Seed) {
		if time.Now().Add(f.Gap).After(until) || t.Failed() {
			return
		}
		time.Sleep(f.Gap)
		k.awaitFaultsAllowed()
		alive := k.runningWriters()
		t.Logf("fault %s; %d writers", f, alive)
		if alive == 0 {
			k.report.Unseen++
		}
		n++
		k.report.Faults[f.Kind]++
		all.Go(func() { k.inject(t, f) })
	}
}

// inject carries out one fault.
func (k *Campaign) inject(t testing.TB, f Fault) {
	one := func() *cluster.Host { return k.Hosts[f.Of[0]] }
	replica := func() *cluster.Control { return k.Controls[f.Of[0]] }
	switch f.Kind {
	case AgentKilled:
		k.killed(t, f, one().Host)
	case AgentPaused:
		k.paused(t, f, one().Host)
	case GuardKilled:
		defer k.parts.reserve("guard of " + one().Name)()
		one().Guard.Kill9(t)
		time.Sleep(f.For)
		one().Guard.Up(t)
	case ControlKilled:
		k.killed(t, f, replica().Host)
	case ControlPaused:
		k.paused(t, f, replica().Host)
	case ConsulKilled, ConsulPaused, QuorumLost:
		var down []*consul.Server
		for _, n := range f.Of {
			down = append(down, k.Consul.Servers[n])
		}
		k.stopConsul(f, down...)
	case LeaderKilled, LeaderPaused:
		k.stopConsul(f, k.leader(f))
	case LeaderCut:
		defer k.parts.reserve("consul")()
		k.partitions.cut(f, k.partitions.cutsAround(k.leader(f).On))
	case HostCut:
		k.partitions.cut(f, append(k.partitions.toControl(one().On), k.partitions.fromControl(one().On)...))
	case HostMute:
		k.partitions.cut(f, k.partitions.toControl(one().On))
	case HostDeaf:
		k.partitions.cut(f, k.partitions.fromControl(one().On))
	case HostAlone:
		k.partitions.cut(f, k.partitions.cutsAround(one().On))
	case PeersCut, PeersDeaf:
		a, b := one().On, k.Hosts[f.Of[1]].On
		cuts := []cut{{a, b}}
		if f.Kind == PeersCut {
			cuts = append(cuts, cut{b, a})
		}
		k.partitions.cut(f, cuts)
	case ControlCut, ControlDeaf:
		var cuts []cut
		for _, s := range k.Consul.Servers {
			cuts = append(cuts, cut{s.On, replica().On})
			if f.Kind == ControlCut {
				cuts = append(cuts, cut{replica().On, s.On})
			}
		}
		k.partitions.cut(f, cuts)
	case HostLost:
		k.loseHost(t, f, one())
	case StorePutBack:
		k.putBack(t, f)
	case EngineKilled, FilesCopied, CopyFailed, MountKept, Strangers, HostBusy:
		k.disturb(t, f, one())
	default:
		t.Errorf("nobody knows how %s happens", f.Kind)
	}
}

func (k *Campaign) killed(t testing.TB, f Fault, h *host.Host) {
	defer k.parts.reserve(h.Dir)()
	h.Kill9(t)
	time.Sleep(f.For)
	h.Up(t)
}

func (k *Campaign) paused(t testing.TB, f Fault, h *host.Host) {
	defer k.parts.reserve(h.Dir)()
	h.Pause(t)
	time.Sleep(f.For)
	h.Resume(t)
}

// stopConsul kills or pauses Consul servers for a while.
func (k *Campaign) stopConsul(f Fault, servers ...*consul.Server) {
	defer k.parts.reserve("consul")()
	kill := f.Kind == ConsulKilled || f.Kind == LeaderKilled
	for _, s := range servers {
		if kill {
			s.Kill()
		} else {
			s.Pause()
		}
	}
	time.Sleep(f.For)
	for _, s := range servers {
		if kill {
			s.Start()
		} else {
			s.Resume()
		}
	}
}

// leader returns the Consul server that leads, or one that the seed chooses if none does.
func (k *Campaign) leader(f Fault) *consul.Server {
	for _, s := range k.Consul.Servers {
		at := s.Leads()
		for _, l := range k.Consul.Servers {
			if l.IP == at {
				return l
			}
		}
	}
	return k.Consul.Servers[rand.New(rand.NewPCG(k.opts.Seed, uint64(f.N))).IntN(len(k.Consul.Servers))]
}

// restartAgents restarts agents that have ended, as their systemd units do, until the returned function is called. A
// guard kills an agent that has a file open in a volume that the guard must fence.
func (k *Campaign) restartAgents(t testing.TB) (end func()) {
	ctx, cancel := context.WithCancel(t.Context())
	var all sync.WaitGroup
	killed := func() { k.report.count("agents killed by their guards") }
	for _, h := range k.Hosts {
		h.Killed = killed
		all.Go(func() {
			for ; ctx.Err() == nil; rest(ctx, 200*time.Millisecond) {
				done := k.parts.reserve(h.Host.Dir)
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
