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

// Processes are the IDs of processes.
type Processes []int

// String names them for an error message.
func (p Processes) String() string {
	switch len(p) {
	case 0:
		return "a process that cannot be identified from here"
	case 1:
		return "process " + strconv.Itoa(p[0])
	}
	return fmt.Sprintf("process %d and %d more", p[0], len(p)-1)
}

// maxLocks bounds how much of /proc/locks is read: other users can fill it.
const maxLocks = 4 << 20

// Holders returns the processes that hold a lock on f by flock(2), as /proc/locks shows them
// (proc_locks(5)). It returns none if they are in another PID namespace, or if the filesystem
// reports another device number there than stat(2), as btrfs does. A process that took the
// lock and has ended is named as well while another process has the same open file.
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
	dev := uint64(st.Dev) //nolint:unconvert // not everywhere the same type
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
