package chaos

import (
	"fmt"
	"iter"
	"math/rand/v2"
	"slices"
	"strings"
	"time"
)

// Kind is a kind of fault.
type Kind string

// The kinds of faults. The comment of a kind begins with what the seed chooses for a fault of this kind.
const (
	AgentKilled   Kind = "agent-killed"   // a host
	AgentPaused   Kind = "agent-paused"   // a host: SIGSTOP, mostly for longer than its session
	GuardKilled   Kind = "guard-killed"   // a host: only for the time of a restart
	ControlKilled Kind = "control-killed" // a replica
	ControlPaused Kind = "control-paused" // a replica
	ConsulKilled  Kind = "consul-killed"  // a server
	ConsulPaused  Kind = "consul-paused"  // a server
	LeaderKilled  Kind = "leader-killed"  // nothing: the leader of Consul at that time
	LeaderPaused  Kind = "leader-paused"  // nothing: the leader of Consul at that time
	LeaderCut     Kind = "leader-cut"     // nothing: the leader of Consul at that time, from everything
	QuorumLost    Kind = "quorum-lost"    // two servers, paused
	HostCut       Kind = "host-cut"       // a host, from all control
	HostMute      Kind = "host-mute"      // a host: control does not hear it
	HostDeaf      Kind = "host-deaf"      // a host: it does not hear control
	HostAlone     Kind = "host-alone"     // a host, from everything
	PeersCut      Kind = "peers-cut"      // two hosts from each other
	PeersDeaf     Kind = "peers-deaf"     // two hosts: the second does not hear the first
	ControlCut    Kind = "control-cut"    // a replica, from Consul
	ControlDeaf   Kind = "control-deaf"   // a replica: it does not hear Consul
	// a host: switched off with its containers; an operator confirms that, and its volumes continue on other
	// hosts
	HostLost     Kind = "host-lost"
	EngineKilled Kind = "engine-killed" // a host: its containers keep running (live-restore)
	FilesCopied  Kind = "files-copied"  // a host: docker cp on each of its containers, for the duration of the fault
	// a host: docker cp on each of its containers fails for another driver's volume
	CopyFailed Kind = "copy-failed"
	MountKept  Kind = "mount-kept" // a host: a process with a copy of a container's mounts keeps writing
	Strangers  Kind = "strangers"  // a host: processes with many descriptors that use no volume
	HostBusy   Kind = "host-busy"  // a host: its CPUs and memory
	// nothing: Consul is restored to its state at the beginning of the fault; an operator recovers the store
	StoreRestored Kind = "store-restored"
)

// Fault is one fault. It begins and ends.
type Fault struct {
	Number   int
	Kind     Kind
	Targets  []int         // indexes of the hosts, replicas or servers, from 0
	Delay    time.Duration // time since the beginning of the previous fault
	Duration time.Duration
}

// String returns the text of a fault with everything that is needed to repeat it.
func (f Fault) String() string {
	of := make([]string, len(f.Targets))
	for i, n := range f.Targets {
		of[i] = fmt.Sprint(n + 1)
	}
	return fmt.Sprintf("%3d +%-5s %s %s for %s", f.Number, f.Delay, f.Kind, strings.Join(of, " "), f.Duration)
}

// part is a kind of component that faults affect.
type part struct {
	name string
	of   int // how many there are
}

var (
	hosts   = part{"host", 3}
	guards  = part{"guard", 3}
	engines = part{"engine", 3}
	copied  = part{"copied", 3}
	kept    = part{"kept", 3}
	crowds  = part{"crowd", 3}
	busy    = part{"busy", 1} // all hosts share the same CPUs
	control = part{"control", 2}
	servers = part{"consul", 3}
)

// kindOfFault describes a kind of fault: how frequent it is, how many parts of which kind it affects, and its longest
// duration.
type kindOfFault struct {
	kind   Kind
	weight int
	part   part
	n      int
	most   time.Duration
}

// allKinds returns all kinds. Kinds that stop everything are short, so that much happens between them.
func allKinds() []kindOfFault {
	return []kindOfFault{
		{AgentKilled, 6, hosts, 1, 4 * time.Second},
		{AgentPaused, 5, hosts, 1, 9 * time.Second},
		{GuardKilled, 3, guards, 1, 500 * time.Millisecond},
		{ControlKilled, 3, control, 1, 5 * time.Second},
		{ControlPaused, 3, control, 1, 5 * time.Second},
		{ConsulKilled, 2, servers, 1, 5 * time.Second},
		{ConsulPaused, 2, servers, 1, 5 * time.Second},
		{LeaderKilled, 2, servers, 0, 5 * time.Second},
		{LeaderPaused, 2, servers, 0, 4 * time.Second},
		{LeaderCut, 2, servers, 0, 4 * time.Second},
		{QuorumLost, 2, servers, 2, 4 * time.Second},
		{HostCut, 4, hosts, 1, 9 * time.Second},
		{HostMute, 3, hosts, 1, 9 * time.Second},
		{HostDeaf, 3, hosts, 1, 9 * time.Second},
		{HostAlone, 3, hosts, 1, 9 * time.Second},
		{PeersCut, 2, hosts, 2, 5 * time.Second},
		{PeersDeaf, 2, hosts, 2, 5 * time.Second},
		{ControlCut, 2, control, 1, 5 * time.Second},
		{ControlDeaf, 2, control, 1, 5 * time.Second},
		{HostLost, 5, hosts, 1, 8 * time.Second},
		{EngineKilled, 8, engines, 1, 3 * time.Second},
		{FilesCopied, 6, copied, 1, time.Second},
		{CopyFailed, 3, copied, 1, time.Second},
		{MountKept, 5, kept, 1, 12 * time.Second},
		{Strangers, 3, crowds, 1, 9 * time.Second},
		{HostBusy, 2, busy, 1, 6 * time.Second},
	}
}

// Every restoreEvery-th campaign restores the store from an older backup once, some seconds after restoreAfter.
// Until the store is up to date again, few other decisions are made.
const (
	restoreEvery = 4
	restoreAfter = 15 * time.Second
)

// Plan returns the faults of a seed, without end. They depend only on the seed. A part with a fault gets no other
// fault before the planned end of the first one. Each fault follows the previous one within 4 s, so that they
// overlap.
func Plan(seed uint64) iter.Seq[Fault] {
	return func(yield func(Fault) bool) {
		random := rand.New(rand.NewPCG(seed, 1))
		busy := map[string]time.Duration{} // until when each part has a fault
		now, restores := time.Duration(0), seed%restoreEvery == 1
		for n := 1; ; n++ {
			f := Fault{Number: n, Delay: draw(random, 500*time.Millisecond, 4*time.Second)}
			now += f.Delay
			for !choose(random, &f, now, busy) {
				f.Delay += 500 * time.Millisecond
				now += 500 * time.Millisecond
			}
			if !yield(f) {
				return
			}
			if restores && now > restoreAfter {
				restores = false
				if !yield(Fault{Kind: StoreRestored,
					Duration: draw(rand.New(rand.NewPCG(seed, 4)), 5*time.Second, 12*time.Second)}) {
					return
				}
			}
		}
	}
}

// draw returns a random duration, rounded to a tenth of a second.
func draw(random *rand.Rand, least, most time.Duration) time.Duration {
	const grain = 100 * time.Millisecond
	return least + time.Duration(random.Int64N(int64((most-least)/grain)+1))*grain
}

// choose selects the next fault, and reports whether it can happen now.
func choose(random *rand.Rand, f *Fault, now time.Duration, busy map[string]time.Duration) bool {
	all, sum := allKinds(), 0
	for _, s := range all {
		sum += s.weight
	}
	at := random.IntN(sum)
	i := slices.IndexFunc(all, func(s kindOfFault) bool { at -= s.weight; return at < 0 })
	s := all[i]
	f.Kind, f.Duration, f.Targets = s.kind, draw(random, 300*time.Millisecond, s.most), random.Perm(s.part.of)[:s.n]
	var takes []string
	for _, n := range f.Targets {
		takes = append(takes, fmt.Sprint(s.part.name, n))
	}
	if s.part == servers { // the leader at that time is not known in advance
		takes = []string{s.part.name}
	}
	for _, t := range takes {
		if busy[t] > now {
			return false
		}
	}
	for _, t := range takes {
		busy[t] = now + f.Duration + 500*time.Millisecond
	}
	return true
}
