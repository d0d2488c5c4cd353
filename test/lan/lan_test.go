package lan_test

import (
	"io"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/droverhq/drover/internal/scratch"
	"github.com/droverhq/drover/test/child"
	"github.com/droverhq/drover/test/lan"
)

func TestMain(m *testing.M) { os.Exit(scratch.Main(m)) }

// two returns two machines, each with a separate folder at /srv.
func two(t *testing.T) (n *lan.Net, a, b *lan.Machine) {
	t.Helper()
	n = lan.New(t)
	return n, n.Machine("a", map[string]string{"/srv": t.TempDir()}), n.Machine("b", map[string]string{"/srv": t.TempDir()})
}

// socket opens a UDP socket on a machine.
func socket(t *testing.T, m *lan.Machine) *net.UDPConn {
	t.Helper()
	var c *net.UDPConn
	err := m.Do(func() (err error) {
		c, err = net.ListenUDP("udp", &net.UDPAddr{IP: net.ParseIP(m.IP)})
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	return c
}

func send(t *testing.T, from, to *net.UDPConn, text string) {
	t.Helper()
	if _, err := from.WriteTo([]byte(text), to.LocalAddr()); err != nil {
		t.Fatalf("send %q: %v", text, err)
	}
}

// wantNext fails unless this is the next packet that arrives: in a network without detours, what was sent before was
// lost.
func wantNext(t *testing.T, c *net.UDPConn, want string) {
	t.Helper()
	if err := c.SetReadDeadline(time.Now().Add(30 * time.Second)); err != nil {
		t.Fatal(err)
	}
	b := make([]byte, 100)
	n, err := c.Read(b)
	if got := string(b[:n]); err != nil || got != want {
		t.Fatalf("%q arrived (%v), want %q", got, err, want)
	}
}

func TestPartitions(t *testing.T) {
	n, a, b := two(t)
	ca, cb := socket(t, a), socket(t, b)
	both := func(name string) {
		t.Helper()
		send(t, ca, cb, name)
		wantNext(t, cb, name)
		send(t, cb, ca, name)
		wantNext(t, ca, name)
	}
	both("whole")
	n.PartitionOneWay(a, b)
	n.PartitionOneWay(a, b) // a second call changes nothing
	send(t, ca, cb, "lost")
	send(t, cb, ca, "against it")
	wantNext(t, ca, "against it")
	n.Heal()
	both("healed")
	n.Isolate(a)
	send(t, ca, cb, "lost")
	send(t, cb, ca, "lost")
	n.HealOneWay(a, b)
	send(t, ca, cb, "one way again")
	wantNext(t, cb, "one way again")
	send(t, cb, ca, "still lost")
	n.Heal()
	both("healed again")
}

// A connection that is open when the network is cut gets no error, and continues afterwards.
func TestConnectionOutlivesPartition(t *testing.T) {
	n, a, b := two(t)
	var l net.Listener
	if err := b.Do(func() (err error) { l, err = net.Listen("tcp", b.IP+":1000"); return err }); err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	out, err := a.Dial(t.Context(), "tcp", b.IP+":1000")
	if err != nil {
		t.Fatal(err)
	}
	defer out.Close()
	in, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	defer in.Close()
	for _, conn := range []net.Conn{in, out} {
		if err := conn.SetDeadline(time.Now().Add(60 * time.Second)); err != nil {
			t.Fatal(err)
		}
	}
	n.Partition(a, b)
	if _, err := out.Write([]byte("cut")); err != nil {
		t.Fatal(err)
	}
	await(t, func() bool { return info(t, out).Total_retrans > 0 })
	if got := info(t, in).Bytes_received; got != 0 {
		t.Errorf("%d bytes arrived through a cut", got)
	}
	n.Heal()
	buf := make([]byte, 3)
	if _, err := io.ReadFull(in, buf); err != nil || string(buf) != "cut" {
		t.Errorf("after the cut: %q, %v", buf, err)
	}
}

// info is what the kernel knows about a connection (tcp(7)).
func info(t *testing.T, c net.Conn) (i *unix.TCPInfo) {
	t.Helper()
	raw, err := c.(*net.TCPConn).SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	cerr := raw.Control(func(fd uintptr) { i, err = unix.GetsockoptTCPInfo(int(fd), unix.IPPROTO_TCP, unix.TCP_INFO) })
	if cerr != nil || err != nil {
		t.Fatal(cerr, err)
	}
	return i
}

func TestMachinesAreApart(t *testing.T) {
	_, a, b := two(t)
	err := a.Do(func() error {
		if err := os.WriteFile("/srv/who", []byte("a"), 0o600); err != nil {
			return err
		}
		if err := os.Mkdir("/srv/mnt", 0o700); err != nil {
			return err
		}
		return unix.Mount("tmpfs", "/srv/mnt", "tmpfs", 0, "")
	})
	if err != nil {
		t.Fatal(err)
	}
	if got, err := os.ReadFile(a.Path("/srv/who")); err != nil || string(got) != "a" {
		t.Errorf("%q, %v", got, err)
	}
	if _, err := os.Stat(b.Path("/srv/who")); !os.IsNotExist(err) {
		t.Errorf("the other machine has it too: %v", err)
	}
	mounts, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil || strings.Contains(string(mounts), "/srv/mnt") {
		t.Errorf("the mount is seen elsewhere: %v\n%s", err, mounts)
	}
	if out := scratch.Run(t, "nsenter", a.Command("hostname")[1:]...); strings.TrimSpace(out) != "a" {
		t.Errorf("host name %q", out)
	}
}

func TestShape(t *testing.T) {
	n, a, b := two(t)
	rule := func() string {
		return scratch.Run(t, "nsenter", a.Command("tc", "qdisc", "show", "dev", "eth0")[1:]...)
	}
	n.Shape(a, "1gbit")
	n.Shape(a, "10mbit")
	if got := rule(); !strings.Contains(got, "tbf") || !strings.Contains(got, "rate 10Mbit") {
		t.Errorf("%s", got)
	}
	ca, cb := socket(t, a), socket(t, b)
	send(t, ca, cb, "slow")
	wantNext(t, cb, "slow")
	n.Shape(a, "")
	if got := rule(); strings.Contains(got, "tbf") {
		t.Errorf("%s", got)
	}
}

// Processes on machines can be found, paused and killed, and none is left when the test has ended.
func TestProcesses(t *testing.T) {
	var p *child.Process
	var on *lan.Machine
	ok := t.Run("network", func(t *testing.T) {
		_, a, b := two(t)
		on = a
		var err error
		p, err = child.Start(child.Spec{Args: a.Command("sh", "-c", "mkfifo /srv/pipe; read x < /srv/pipe"), Log: filepath.Join(t.TempDir(), "log")})
		if err != nil {
			t.Fatal(err)
		}
		await(t, func() bool { return slices.Contains(a.Processes(), p.PID()) })
		if other := b.Processes(); len(other) > 0 {
			t.Errorf("%v run on the other machine", other)
		}
	})
	if !ok {
		t.FailNow()
	}
	if p.Running() {
		t.Error("a process of the machine lives on")
	}
	if err := on.Do(func() error { return nil }); err == nil {
		t.Error("the machine is still there")
	}
}

func await(t *testing.T, f func() bool) {
	t.Helper()
	for limit := time.Now().Add(30 * time.Second); !f(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(limit) {
			t.Fatal("not within 30 s")
		}
	}
}
