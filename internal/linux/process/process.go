// Package process identifies processes of this host by PID and start time, so that a process is not confused with a
// later one that has the same PID. It also finds out which user and which container a process belongs to (owner.go).
// The plugin identifies the caller of a request with it, and package inuse the processes that it examines. The agent
// (agent/mounting) records the engines that mount volumes, and describes the users of a volume. The package keeps no
// state. All functions are safe for concurrent use.
package process

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// Identity identifies a process within one boot. The start time distinguishes it from a later
// process with the same PID. The zero value means an unknown process.
type Identity struct {
	PID   int    `json:"pid"`
	Start uint64 `json:"start"` // since the boot, in clock ticks: proc_pid_stat(5), starttime
}

// IsKnown reports whether i is not the zero value.
func (i Identity) IsKnown() bool { return i != Identity{} }

// Of returns the identity of the process that has a PID now. If this PID namespace has no such
// process, the error is os.ErrNotExist, or unix.ESRCH if the process ends during the call.
func Of(pid int) (Identity, error) {
	start, _, err := stat(pid)
	if err != nil {
		return Identity{}, fmt.Errorf("identify process %d: %w", pid, err)
	}
	return Identity{PID: pid, Start: start}, nil
}

// HasEnded reports whether the process has ended. A zombie has ended. If the error is not nil, the
// answer is unknown.
func (i Identity) HasEnded() (bool, error) {
	start, state, err := stat(i.PID)
	switch {
	case errors.Is(err, os.ErrNotExist), errors.Is(err, unix.ESRCH):
		return true, nil
	case err != nil:
		return false, fmt.Errorf("check whether process %d has ended: %w", i.PID, err)
	}
	return start != i.Start || state == 'Z' || state == 'X', nil
}

// Program returns the name of the file that the process runs, without its folder. It fails if the
// process has ended, or if the caller may not see the file (ptrace(2), access mode checks).
func (i Identity) Program() (string, error) {
	exe, err := os.Readlink("/proc/" + strconv.Itoa(i.PID) + "/exe")
	if err != nil {
		return "", fmt.Errorf("read the program of process %d: %w", i.PID, err)
	}
	if current, err := Of(i.PID); err != nil || current != i {
		return "", errors.Join(fmt.Errorf("read the program of process %d: it has ended", i.PID), err)
	}
	// The kernel appends " (deleted)" once an upgrade has replaced the file.
	return filepath.Base(strings.TrimSuffix(exe, " (deleted)")), nil
}

// stat reads the start time and the state of a process: proc_pid_stat(5). Both follow the name of the
// program, which may contain blanks and parentheses.
func stat(pid int) (start uint64, state byte, err error) {
	b, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/stat")
	if err != nil {
		return 0, 0, err
	}
	const startField = 19 // counted after the name, which ends with the last parenthesis
	f := bytes.Fields(b[bytes.LastIndexByte(b, ')')+1:])
	if len(f) <= startField {
		return 0, 0, fmt.Errorf("/proc/%d/stat has an unknown format", pid)
	}
	start, err = strconv.ParseUint(string(f[startField]), 10, 64)
	return start, f[0][0], err
}

// RunOnThread calls do on a thread that ends afterwards, and returns when do has returned. Goroutines that do starts
// run on other threads. A process that do starts gets its parent-death signal at the end of the thread, too (prctl(2)).
func RunOnThread(do func()) {
	done := make(chan struct{})
	go func() {
		defer close(done)
		// A thread ends with a goroutine that is locked to it. The main thread does not end. If this is the main
		// thread, do runs on another one. This goroutine occupies the main thread meanwhile.
		runtime.LockOSThread()
		if unix.Gettid() == unix.Getpid() {
			RunOnThread(do)
			runtime.UnlockOSThread()
			return
		}
		do()
	}()
	<-done
}
