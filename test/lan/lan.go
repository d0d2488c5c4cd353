// Package lan makes machines of namespaces on one network, for tests of several
// hosts: each has its own network interface and address, mounts and host name, and
// shares with the others the kernel, its clocks and the files on disk. A test can cut
// the network between any two of them, one way or both, and make it slow.
//
// The namespaces have no names and no files: file descriptors of the test process and
// what runs in them keep them alive. So they are gone with the test, however it ends,
// and with them their interfaces and mounts. The network is joined to no other.
package lan

import (
	"fmt"
	"os"
	"os/exec"
	"strings"
	"sync"
	"testing"

	"golang.org/x/sys/unix"
)

// Net is a network: a bridge in a namespace of its own, a port for each machine. It
// is safe for concurrent use.
type Net struct {
	tb     testing.TB
	bridge *os.File // its network namespace

	mu       sync.Mutex
	machines []*Machine
	cuts     map[cut]bool
}

// A cut keeps packets of one machine from another.
type cut struct{ from, to *Machine }

// New makes a network, which goes at the end of the test with its machines and
// whatever still runs on them.
func New(tb testing.TB) *Net {
	tb.Helper()
	n := &Net{tb: tb, cuts: map[cut]bool{}}
	err := onThread(func() (err error) {
		if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
			return fmt.Errorf("make a network namespace (these tests need root): %w", err)
		}
		n.bridge, err = os.Open("/proc/thread-self/ns/net")
		return err
	})
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(n.close)
	n.ip("link", "add", "lan", "type", "bridge")
	n.ip("link", "set", "lan", "up")
	return n
}

// ip runs ip(8) where the bridge is.
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

// path names an open file for other processes.
func path(f *os.File) string { return fmt.Sprintf("/proc/%d/fd/%d", os.Getpid(), f.Fd()) }

// Machines are all that were made, in their order.
func (n *Net) Machines() []*Machine {
	n.mu.Lock()
	defer n.mu.Unlock()
	return append([]*Machine(nil), n.machines...)
}

// Partition cuts the network between two machines. Packets vanish, as with a broken
// switch: who waits for an answer is not told.
func (n *Net) Partition(a, b *Machine) {
	n.tb.Helper()
	n.PartitionOneWay(a, b)
	n.PartitionOneWay(b, a)
}

// PartitionOneWay keeps what one machine sends from another, which still is heard.
func (n *Net) PartitionOneWay(from, to *Machine) {
	n.tb.Helper()
	n.mu.Lock()
	defer n.mu.Unlock()
	if c := (cut{from, to}); !n.cuts[c] {
		// A machine that does not forward answers nothing to what a blackhole took
		// (ip_error in the kernel's net/ipv4/route.c).
		must(n.tb, to.Command("ip", "rule", "add", "pref", "10", "from", from.IP, "blackhole"))
		n.cuts[c] = true
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

// HealOneWay has one machine hear another again. Again: nothing.
func (n *Net) HealOneWay(from, to *Machine) {
	n.tb.Helper()
	n.mu.Lock()
	defer n.mu.Unlock()
	if c := (cut{from, to}); n.cuts[c] {
		n.heal(c)
	}
}

func (n *Net) heal(c cut) {
	n.tb.Helper()
	must(n.tb, c.to.Command("ip", "rule", "del", "pref", "10", "from", c.from.IP, "blackhole"))
	delete(n.cuts, c)
}

// Shape bounds what a machine sends and what it receives to a rate as tc(8) takes it,
// such as 1gbit, with a token bucket each (tc-tbf(8)). Empty ends it.
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
