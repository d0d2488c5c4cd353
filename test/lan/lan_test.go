package lan_test

import (
	"net"
	"os"
	"testing"
	"time"

	"github.com/droverhq/drover/internal/scratch"
	"github.com/droverhq/drover/test/lan"
	"github.com/droverhq/drover/test/require"
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
	require.NoError(t, err)
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
	require.NoError(t, c.SetReadDeadline(time.Now().Add(30*time.Second)))
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
	n.PartitionOneWay(a, b)
	n.HealOneWay(a, b) // ends one of them
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
