package lan

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/droverhq/drover/internal/linux/process"
	"github.com/droverhq/drover/test/assert"
	"github.com/droverhq/drover/test/require"
)

// Machine is one machine of a network. It is safe for concurrent use.
type Machine struct {
	Name string // host name
	IP   string

	tb   testing.TB
	port string   // its interface at the bridge
	root *os.File // its root folder
	net  *os.File // its network namespace
	mnt  *os.File
	uts  *os.File
}

// Machine creates a machine with a name. own maps paths on the machine to folders that only this machine has
// there.
func (n *Net) Machine(name string, own map[string]string) *Machine {
	n.tb.Helper()
	n.mu.Lock()
	defer n.mu.Unlock()
	i := len(n.machines) + 1
	m := &Machine{Name: name, IP: fmt.Sprintf("10.77.0.%d", i), tb: n.tb, port: fmt.Sprint("port", i)}
	require.NoErrorf(n.tb, onThread(func() error { return m.make(own) }), "machine %s", name)
	n.machines = append(n.machines, m)
	// A name with a slash is the path of a namespace (ip-link(8), netns_get_fd of iproute2).
	n.ip("link", "add", m.port, "type", "veth", "peer", "name", "eth0", "netns", path(m.net))
	n.ip("link", "set", m.port, "master", "lan", "up")
	for _, args := range [][]string{
		{"ip", "link", "set", "lo", "up"},
		// The lookup of incoming packets comes first by default (ip-rule(8)). It must come later, so that
		// partitions come before it.
		{"ip", "rule", "add", "pref", "100", "lookup", "local"},
		{"ip", "rule", "del", "pref", "0"},
		{"ip", "address", "add", m.IP + "/24", "dev", "eth0"},
		{"ip", "link", "set", "eth0", "up"},
	} {
		must(n.tb, m.Command(args...))
	}
	return m
}

// make unshares the namespaces of this thread and keeps them open.
func (m *Machine) make(own map[string]string) (err error) {
	if err := unix.Unshare(unix.CLONE_NEWNET | unix.CLONE_NEWNS | unix.CLONE_NEWUTS); err != nil {
		return fmt.Errorf("make namespaces (these tests need root): %w", err)
	}
	if err := unix.Sethostname([]byte(m.Name)); err != nil {
		return fmt.Errorf("set the host name: %w", err)
	}
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
		return fmt.Errorf("make mounts private: %w", err)
	}
	// A new namespace forwards if the machine does (devconf_inherit_init_net in the kernel's ip-sysctl).
	if err := os.WriteFile("/proc/sys/net/ipv4/ip_forward", []byte("0"), 0); err != nil {
		return err
	}
	for at, dir := range own {
		if err := unix.Mount(dir, at, "", unix.MS_BIND, ""); err != nil {
			return fmt.Errorf("bind %s to %s: %w", dir, at, err)
		}
	}
	fd, err := unix.Open("/", unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return err
	}
	m.root = os.NewFile(uintptr(fd), "/")
	for kind, into := range map[string]**os.File{"net": &m.net, "mnt": &m.mnt, "uts": &m.uts} {
		if *into, err = os.Open("/proc/thread-self/ns/" + kind); err != nil {
			return err
		}
	}
	return nil
}

// onThread calls fn on a thread that ends afterwards, so that fn can change its namespaces.
func onThread(fn func() error) (err error) {
	process.RunOnThread(func() { err = fn() })
	return err
}

// Do calls fn on the machine, with its files, mounts and sockets. fn must not start processes; use Command for
// that. Goroutines that fn starts do not run on the machine.
func (m *Machine) Do(fn func() error) error {
	return onThread(func() error {
		// A thread that shares its root and working directory with others cannot change its mount namespace
		// (setns(2)).
		if err := unix.Unshare(unix.CLONE_FS); err != nil {
			return err
		}
		for f, kind := range map[*os.File]int{
			m.net: unix.CLONE_NEWNET,
			m.uts: unix.CLONE_NEWUTS,
			m.mnt: unix.CLONE_NEWNS,
		} {
			if err := unix.Setns(int(f.Fd()), kind); err != nil {
				return fmt.Errorf("enter %s: %w", m.Name, err)
			}
		}
		return fn()
	})
}

// Command returns the arguments that run a program on the machine, in the same process.
func (m *Machine) Command(args ...string) []string {
	return append([]string{"nsenter", "--net=" + path(m.net), "--uts=" + path(m.uts), "--mount=" + path(m.mnt),
		"--"}, args...)
}

// Dial connects from the machine. The address is numeric.
func (m *Machine) Dial(ctx context.Context, network, address string) (conn net.Conn, err error) {
	derr := m.Do(func() error {
		conn, err = new(net.Dialer).DialContext(ctx, network, address)
		return err
	})
	return conn, derr
}

// Path returns the path with which this process reaches a file of the machine, also below mounts there.
func (m *Machine) Path(file string) string {
	return fmt.Sprintf("/proc/self/fd/%d%s", m.root.Fd(), file)
}

// Processes returns the processes that run on the machine, without those in containers of an engine, which have
// their own namespaces.
func (m *Machine) Processes() []int {
	entries, err := os.ReadDir("/proc")
	if err != nil {
		return nil
	}
	var list []int
	for _, e := range entries {
		pid, err := strconv.Atoi(e.Name())
		if err != nil || pid == os.Getpid() {
			continue
		}
		for kind, f := range map[string]*os.File{"net": m.net, "mnt": m.mnt} {
			if same(filepath.Join("/proc", e.Name(), "ns", kind), f) {
				list = append(list, pid)
				break
			}
		}
	}
	return list
}

// same reports whether a path refers to an open file.
func same(path string, f *os.File) bool {
	a, err := os.Stat(path)
	if err != nil {
		return false // the process has ended
	}
	b, err := f.Stat()
	return err == nil && os.SameFile(a, b)
}

// Kill kills everything that runs on the machine, and waits for its end.
func (m *Machine) Kill() error {
	deadline := time.After(30 * time.Second)
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for {
		pids := m.Processes()
		if len(pids) == 0 {
			return nil
		}
		for _, pid := range pids {
			if err := unix.Kill(pid, unix.SIGKILL); err != nil && !errors.Is(err, unix.ESRCH) {
				return err
			}
		}
		select {
		case <-tick.C:
		case <-deadline:
			return fmt.Errorf("processes %v of %s do not end", pids, m.Name)
		}
	}
}

func (m *Machine) close() {
	assert.NoError(m.tb, m.Kill())
	for _, f := range []*os.File{m.root, m.net, m.mnt, m.uts} {
		if err := f.Close(); err != nil && !errors.Is(err, fs.ErrClosed) {
			m.tb.Error(err)
		}
	}
}
