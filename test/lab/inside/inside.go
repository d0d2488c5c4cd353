// Package inside has what the host and the guest of the lab share: how the host sends a command, and how a test in the
// guest finds its disks. Package test/lab and command test/lab/guest use the messages ([Command], [Event]). The tests
// of other packages that only the lab runs (//go:build lab) use the disks ([Disk], [FaultyDisk], [XFS]) and the NFS
// server ([Serve]). The package keeps no state. A [Faulty] belongs to one test.
package inside

import (
	"os"
	"os/exec"
	"strings"
	"testing"
)

// Where the two folders that the host shares are mounted in the guest.
const (
	Share  = "/lab" // folder of the run: test binaries, and files that a test leaves for the host
	Source = "/src" // the repository, read-only
)

// Port is the name of the virtio port between host and guest. Each line is a JSON value.
const Port = "lab"

// Systemd is the parameter on the kernel's command line with which the guest starts systemd of the root filesystem as
// its init process.
const Systemd = "lab.init=systemd"

// Guest is the path of the guest's program in a machine with systemd. Containers there can run it too.
const Guest = "/usr/local/sbin/lab-guest"

// Command is a command that the host asks the guest to run.
type Command struct {
	Args    []string
	Dir     string
	Env     []string // beside the environment of the guest
	Disks   []string // name=serial for each disk; added to Env under Variable
	Seconds int      // after which it is killed with everything that it started
}

// Event is a message of the guest: it is ready, a line of a command's output, or the end of the command.
type Event struct {
	Ready  bool
	Line   string
	Ended  bool
	Exit   int
	Reason string // why there is no exit status
}

// Variable returns the environment variable with the device of a disk.
func Variable(disk string) string {
	return "DROVER_LAB_DISK_" + strings.ToUpper(strings.ReplaceAll(disk, "-", "_"))
}

// Disk empties a disk and returns its device. The entry of the test in the lab's table must list a disk with this name.
func Disk(tb testing.TB, name string) string {
	tb.Helper()
	path := os.Getenv(Variable(name))
	if path == "" {
		tb.Fatalf("no disk %s: the entry of these tests in test/lab/table.go gives none", name)
	}
	// The command fails if the disk is in use. It also frees the blocks of the image file on the host.
	if out, err := exec.Command("blkdiscard", "--zeroout", path).CombinedOutput(); err != nil {
		tb.Fatalf("empty disk %s: %v: %s", name, err, out)
	}
	return path
}
