package inside

import (
	"fmt"
	"os"
	"os/exec"
	"strings"
	"testing"

	"github.com/droverhq/drover/test/require"
)

// faultyFrom is the sector of the machine's disk at which a faulty disk begins. If both began at the same sector,
// LVM would find the same data at the start of both.
const faultyFrom = 2048

// Faulty is a disk that fails on request: a device of the device mapper on one of the machine's disks. The entry
// in the table needs the module dm-flakey.
type Faulty struct {
	tb      testing.TB
	name    string
	disk    string
	sectors int64
}

// FaultyDisk empties the disk with this name, and makes a device on it that can fail. The entry of the test in the
// lab's table must list the disk. The device works until Fails or FailsWrites is called.
func FaultyDisk(tb testing.TB, disk string) *Faulty {
	tb.Helper()
	f := &Faulty{tb: tb, name: "faulty-" + disk, disk: Disk(tb, disk)}
	out, err := exec.Command("blockdev", "--getsz", f.disk).Output()
	if err == nil {
		_, err = fmt.Sscan(string(out), &f.sectors)
	}
	require.NoErrorf(tb, err, "size of %s: %q", f.disk, out)
	f.sectors -= faultyFrom
	f.dmsetup(f.linear(0, f.sectors), "create", f.name)
	tb.Cleanup(func() {
		f.Works()
		f.dmsetup("", "remove", "--retry", f.name)
	})
	return f
}

// Path returns the path of the device.
func (f *Faulty) Path() string { return "/dev/mapper/" + f.name }

// Works makes the disk work.
func (f *Faulty) Works() { f.load(f.linear(0, f.sectors)) }

// FailsWrites makes each write and each flush fail with EIO. Reads succeed.
func (f *Faulty) FailsWrites() {
	f.load(fmt.Sprintf("0 %d flakey %s %d 0 3600 1 error_writes", f.sectors, f.disk, faultyFrom))
}

// Fails makes all reads and writes fail with EIO, as on a disk that was pulled out.
func (f *Faulty) Fails() { f.load(fmt.Sprintf("0 %d error", f.sectors)) }

// linear returns the line of a table that maps sectors to those of the machine's disk.
func (f *Faulty) linear(from, count int64) string {
	return fmt.Sprintf("%d %d linear %s %d", from, count, f.disk, from+faultyFrom)
}

// load replaces the table of the device while it is in use, without flushing before.
func (f *Faulty) load(table string) {
	f.tb.Helper()
	f.dmsetup("", "suspend", "--nolockfs", "--noflush", f.name)
	f.dmsetup(table, "load", f.name)
	f.dmsetup("", "resume", f.name)
}

// dmsetup runs dmsetup(8), which reads a table from its standard input.
func (f *Faulty) dmsetup(table string, args ...string) {
	f.tb.Helper()
	cmd := exec.Command("dmsetup", args...)
	cmd.Stdin = strings.NewReader(table)
	cmd.Env = append(os.Environ(), "DM_DISABLE_UDEV=1") // there is no udev here, so waiting for it would never end
	if out, err := cmd.CombinedOutput(); err != nil {
		f.tb.Fatalf("dmsetup %s: %v: %s", strings.Join(args, " "), err, out)
	}
}
