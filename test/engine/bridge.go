package engine

import (
	"bytes"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/droverhq/drover/internal/scratch"
)

// bridge returns the name of this engine's bridge. The kernel allows 15 bytes (IFNAMSIZ).
func (e *Engine) bridge() string {
	return "drv-" + e.id
}

// makeBridge creates the bridge for dockerd. The default bridge, docker0, would clash with the bridge of the machine's
// own engine.
func (e *Engine) makeBridge() error {
	subnet, err := freeSubnet()
	if err != nil {
		return err
	}
	if err := ip("link", "add", e.bridge(), "type", "bridge"); err != nil {
		return err
	}
	return errors.Join(ip("address", "add", subnet, "dev", e.bridge()), ip("link", "set", e.bridge(), "up"))
}

// freeSubnet returns an address for the bridge, in a network of 62 addresses that no interface here uses. All
// these networks are in 198.18.0.0/15, which RFC 2544 reserves for tests, so the machine uses none of them.
func freeSubnet() (string, error) {
	taken, err := net.InterfaceAddrs()
	if err != nil {
		return "", err
	}
	for range 100 {
		n := rand.Uint32N(1 << 11)
		gateway := netip.AddrFrom4([4]byte{198, byte(18 + n>>10), byte(n >> 2), byte(n<<6 | 1)})
		subnet := netip.PrefixFrom(gateway, 26)
		inUse := func(a net.Addr) bool {
			other, err := netip.ParsePrefix(a.String())
			return err == nil && other.Overlaps(subnet)
		}
		if !slices.ContainsFunc(taken, inUse) {
			return subnet.String(), nil
		}
	}
	return "", errors.New("no free network in 198.18.0.0/15: remove bridges named drv-*")
}

func (e *Engine) removeBridge() error {
	if _, err := os.Stat(filepath.Join("/sys/class/net", e.bridge())); err != nil {
		return nil
	}
	return ip("link", "delete", e.bridge())
}

func ip(args ...string) error {
	out, err := exec.Command("ip", args...).CombinedOutput()
	if err != nil {
		return fmt.Errorf("ip %s: %w: %s", strings.Join(args, " "), err, bytes.TrimSpace(out))
	}
	return nil
}

// Main runs the tests of a package that starts engines. A package calls it from its TestMain:
//
//	func TestMain(m *testing.M) { engine.Main(m) }
//
// The tests run in separate mount and process namespaces (scratch.Isolate), in which /run/docker and /run/containerd
// are empty. So only the engines of this process see a plugin that a test starts, which may have any driver name, and
// no test sees the plugins, containers or containerd of the machine. Main needs root, and ends the process.
func Main(m *testing.M) { os.Exit(scratch.Isolate(prepareMounts, m.Run)) }

// Volatile returns a folder in memory that the tests of this process share. It disappears with them.
func Volatile() (string, error) {
	if !scratch.Isolated() {
		return "", errors.New("engine.Volatile needs func TestMain(m *testing.M) { engine.Main(m) } in this package")
	}
	return "/run/docker", nil
}

// prepareMounts hides what engines and their plugins would share otherwise: the sockets of plugins, a system-wide
// containerd (dockerd uses one if it finds it), and the sockets of shims.
func prepareMounts() error {
	for _, dir := range []string{"/run/docker", "/run/containerd"} {
		if err := os.MkdirAll(dir, 0o755); err != nil {
			return err
		}
		if err := unix.Mount("tmpfs", dir, "tmpfs", 0, "mode=0711"); err != nil {
			return fmt.Errorf("mount a tmpfs on %s: %w", dir, err)
		}
	}
	return os.MkdirAll("/run/docker/plugins", 0o755)
}
