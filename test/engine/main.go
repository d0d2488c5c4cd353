package engine

import (
	"errors"
	"fmt"
	"os"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/droverhq/drover/internal/scratch"
)

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
