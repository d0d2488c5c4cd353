// Package lan makes machines from namespaces on one network, for tests of several hosts. Each machine has its own
// network interface and address, mounts and host name. It shares the kernel, the clocks and the files on disk
// with the others. A test can cut the network between any two of them, in one direction or both, and make it
// slow.
//
// The namespaces have no names and no files. File descriptors of the test process, and the processes in the namespaces,
// keep them alive. So they disappear with the test, however it ends, and so do their interfaces and mounts. The network
// is not connected to any other. Packages test/chaos, cluster, consul, engine and host run their parts on machines, and
// tests in other folders use it too. A [Net] owns its machines and the cuts between them, and a mutex protects both
// lists. A [Machine] does not change after it was made.
package lan

import (
	"fmt"
	"os"
	"os/exec"
	"strings"
	"sync"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/droverhq/drover/test/require"
)

// Net is a network: a bridge in a separate namespace, with a port for each machine. It is safe for concurrent
// use.
type Net struct {
	tb     testing.TB
	bridge *os.File // network namespace of the bridge

	mu       sync.Mutex
	machines []*Machine
	cuts     map[Cut]int // how often each was made
}

// A Cut drops the packets of one machine to another.
type Cut struct{ From, To *Machine }

// New creates a network. At the end of the test it is removed with its machines and everything that runs on them.
func New(tb testing.TB) *Net {
	tb.Helper()
	n := &Net{tb: tb, cuts: map[Cut]int{}}
	err := onThread(func() (err error) {
		if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
			return fmt.Errorf("make a network namespace (these tests need root): %w", err)
		}
		n.bridge, err = os.Open("/proc/thread-self/ns/net")
		return err
	})
	require.NoError(tb, err)
	tb.Cleanup(n.close)
	n.ip("link", "add", "lan", "type", "bridge")
	n.ip("link", "set", "lan", "up")
	return n
}

// ip runs ip(8) in the namespace of the bridge.
func (n *Net) ip(args ...string) { n.tool(append([]string{"ip"}, args...)...) }

func (n *Net) tool(args ...string) {
	n.tb.Helper()
	must(n.tb, append([]string{"nsenter", "--net=" + path(n.bridge), "--"}, args...))
}

func must(tb testing.TB, args []string) {
	tb.Helper()
	if out, err := exec.Command(args[0], args[1:]...).CombinedOutput(); err != nil {
		tb.Fatalf("%s: %v: %s", strings.Join(args, " "), err, out)
	}
}

// path returns a path of an open file for other processes.
func path(f *os.File) string { return fmt.Sprintf("/proc/%d/fd/%d", os.Getpid(), f.Fd()) }

// Machines returns all machines, in the order of their creation.
func (n *Net) Machines() []*Machine {
	n.mu.Lock()
	defer n.mu.Unlock()
	return append([]*Machine(nil), n.machines...)
}

// Partition cuts the network between two machines. Packets are dropped, as by a broken switch, and the sender
// gets no error.
func (n *Net) Partition(a, b *Machine) {
	n.tb.Helper()
	n.PartitionOneWay(a, b)
	n.PartitionOneWay(b, a)
}

// PartitionOneWay drops what one machine sends to another. The other direction still works. A cut that was made several
// times lasts until HealOneWay was called as often.
func (n *Net) PartitionOneWay(from, to *Machine) {
	n.tb.Helper()
	n.mu.Lock()
	defer n.mu.Unlock()
	c := Cut{from, to}
	if n.cuts[c]++; n.cuts[c] == 1 {
		// A machine that does not forward sends no error for a packet that a blackhole has dropped (ip_error in
		// the kernel's net/ipv4/route.c).
		must(n.tb, to.Command("ip", "rule", "add", "pref", "10", "from", from.IP, "blackhole"))
	}
}

// Isolate cuts a machine off from all others.
func (n *Net) Isolate(m *Machine) {
	n.tb.Helper()
	for _, other := range n.Machines() {
		if other != m {
			n.Partition(m, other)
		}
	}
}

// Heal ends all partitions.
func (n *Net) Heal() {
	n.tb.Helper()
	n.mu.Lock()
	defer n.mu.Unlock()
	for c := range n.cuts {
		n.heal(c)
	}
}

// HealOneWay ends one call of PartitionOneWay. Idempotent.
func (n *Net) HealOneWay(from, to *Machine) {
	n.tb.Helper()
	n.mu.Lock()
	defer n.mu.Unlock()
	switch c := (Cut{from, to}); n.cuts[c] {
	case 0:
	case 1:
		n.heal(c)
	default:
		n.cuts[c]--
	}
}

func (n *Net) heal(c Cut) {
	n.tb.Helper()
	must(n.tb, c.To.Command("ip", "rule", "del", "pref", "10", "from", c.From.IP, "blackhole"))
	delete(n.cuts, c)
}

// Shape limits what a machine sends, and what it receives, to a rate in the form of tc(8), such as 1gbit. It uses
// one token bucket for each direction (tc-tbf(8)). An empty rate removes the limit.
func (n *Net) Shape(m *Machine, rate string) {
	n.tb.Helper()
	rule := func(dev string) []string {
		if rate == "" {
			return []string{"tc", "qdisc", "del", "dev", dev, "root"}
		}
		return []string{"tc", "qdisc", "replace", "dev", dev, "root", "tbf", "rate", rate, "burst", "256kb",
			"latency", "50ms"}
	}
	must(n.tb, m.Command(rule("eth0")...))
	n.tool(rule(m.port)...)
}

func (n *Net) close() {
	for _, m := range n.Machines() {
		m.close()
	}
	n.bridge.Close()
}
