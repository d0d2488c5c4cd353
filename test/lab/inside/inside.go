// Package inside is what both sides of the lab's machine know of each other: how the
// host asks for a command, and how a test that runs in there finds its disks.
package inside

import (
	"os"
	"os/exec"
	"strings"
	"testing"
)

// Where the guest has the two folders that the host shares with it.
const (
	Share  = "/lab" // the run's own: test binaries, and whatever a test leaves for the host
	Source = "/src" // the repository, read-only
)

// Port is the name of the virtio port through which the two talk, a JSON value a line.
const Port = "lab"

// Systemd on the kernel's command line has the root's own init follow.
const Systemd = "lab.init=systemd"

// Guest is where the guest's program is then, for containers too.
const Guest = "/usr/local/sbin/lab-guest"

// Command is what the host asks the guest to run.
type Command struct {
	Args    []string
	Dir     string
	Env     []string // more than the guest has
	Disks   []string // in Env as well, by Variable: the serial numbers of its disks, by name=serial
	Seconds int      // then it is killed, with what it started
}

// Event is what the guest says: that it is up, a line of a command's output, or its end.
type Event struct {
	Ready  bool
	Line   string
	Ended  bool
	Exit   int
	Reason string // why there is no exit status
}

// Variable is the environment variable that holds the device of a disk.
func Variable(disk string) string {
	return "DROVER_LAB_DISK_" + strings.ToUpper(strings.ReplaceAll(disk, "-", "_"))
}

// Disk returns the device of a disk that the entry in the lab's table asks for, with
// nothing on it.
func Disk(tb testing.TB, name string) string {
	tb.Helper()
	path := os.Getenv(Variable(name))
	if path == "" {
		tb.Fatalf("no disk %s: the entry of these tests in test/lab/table.go gives none", name)
	}
	// It fails on a disk that is in use; the host's file below it loses its blocks.
	if out, err := exec.Command("blkdiscard", "--zeroout", path).CombinedOutput(); err != nil {
		tb.Fatalf("empty disk %s: %v: %s", name, err, out)
	}
	return path
}
