package safefile

import (
	"bufio"
	"fmt"
	"io"
	"os"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// Processes is a list of process IDs.
type Processes []int

// String formats the list for an error message.
func (p Processes) String() string {
	switch len(p) {
	case 0:
		return "a process that cannot be identified from here"
	case 1:
		return "process " + strconv.Itoa(p[0])
	}
	return fmt.Sprintf("process %d and %d more", p[0], len(p)-1)
}

// maxLocks bounds how many bytes of /proc/locks are read: any user can make the file long by
// taking locks.
const maxLocks = 4 << 20

// Holders returns the processes that hold a flock(2) lock on f, according to /proc/locks
// (proc_locks(5)). The result serves error messages and is not reliable:
//
//   - It is empty if /proc/locks cannot be read, if the holders are in another PID namespace, or
//     if the filesystem is btrfs, whose device number in /proc/locks differs from that of stat(2).
//   - A process that took the lock and ended is listed as long as another process still has the
//     same open file.
func Holders(f *os.File) (list Processes) {
	var st unix.Stat_t
	if unix.Fstat(int(f.Fd()), &st) != nil {
		return nil
	}
	locks, err := os.Open("/proc/locks")
	if err != nil {
		return nil
	}
	defer locks.Close()
	dev := uint64(st.Dev) //nolint:unconvert // its type differs between architectures
	file := fmt.Sprintf("%02x:%02x:%d", unix.Major(dev), unix.Minor(dev), st.Ino)
	for lines := bufio.NewScanner(io.LimitReader(locks, maxLocks)); lines.Scan(); {
		// "1: FLOCK  ADVISORY  WRITE 718 fd:00:1234 0 EOF"; a waiter has "->" after the number.
		f := strings.Fields(lines.Text())
		if len(f) < 6 || f[1] != "FLOCK" || f[5] != file {
			continue
		}
		if pid, err := strconv.Atoi(f[4]); err == nil && pid > 0 && !slices.Contains(list, pid) {
			list = append(list, pid)
		}
	}
	return list
}
