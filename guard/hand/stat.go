package hand

import (
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// stat contains fields of proc_pid_stat(5) for a task.
type stat struct {
	comm    string
	state   byte
	threads int // 0 in the file of a task that has ended
	start   uint64
	kernel  bool // a thread of the kernel
}

var errStat = errors.New("the stat file has an unknown format")

func statOf(dir string) (stat, error) {
	b, err := os.ReadFile(dir + "/stat")
	if err != nil {
		return stat{}, err
	}
	return parseStat(b)
}

// parseStat parses a stat file. The name of the program may contain any character, also parentheses.
func parseStat(b []byte) (stat, error) {
	from, to := bytes.IndexByte(b, '('), bytes.LastIndexByte(b, ')')
	if from < 0 || to < from {
		return stat{}, errStat
	}
	const (
		flags       = 6           // index among the fields after the name
		numThreads  = 17          // likewise
		starttime   = 19          // likewise
		kernelFlags = 0x0020_0000 // PF_KTHREAD, linux/sched.h
	)
	f := bytes.Fields(b[to+1:])
	if len(f) <= starttime {
		return stat{}, errStat
	}
	start, err1 := strconv.ParseUint(string(f[starttime]), 10, 64)
	bits, err2 := strconv.ParseUint(string(f[flags]), 10, 64)
	threads, err3 := strconv.Atoi(string(f[numThreads]))
	if err := errors.Join(err1, err2, err3); err != nil {
		return stat{}, err
	}
	return stat{string(b[from+1 : to]), f[0][0], threads, start, bits&kernelFlags != 0}, nil
}

// isSame reports whether a PID still belongs to the process that was seen before.
func isSame(p Process) bool {
	st, err := statOf(filepath.Join("/proc", strconv.Itoa(p.PID)))
	return err == nil && st.start == p.Start
}

// signal sends a signal to a process, and never to another one that has got its PID. If the process has
// ended, it returns nil.
func signal(p Process, sig unix.Signal) error {
	fd, err := unix.PidfdOpen(p.PID, 0)
	if errors.Is(err, unix.ESRCH) {
		return nil
	}
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	if !isSame(p) {
		return nil
	}
	if err := unix.PidfdSendSignal(fd, sig, nil, 0); err != nil && !errors.Is(err, unix.ESRCH) {
		return err
	}
	return nil
}

// isHalted reports whether all threads of a process are stopped or have ended, so that the process cannot continue
// without a signal. A thread that a debugger has stopped (state t) does not count as stopped, because the debugger
// can continue it.
func isHalted(p Process) bool { return allThreads(p, "TZX") }

// cannotStop reports whether a process that was sent SIGSTOP does not stop because a thread waits in the kernel
// or is stopped by a debugger. A thread in another state only waits for a processor: it stops before its
// program runs again.
func cannotStop(p Process) bool { return !allThreads(p, "TZXRS") }

// allThreads reports whether all threads of a process are in one of these states (proc_pid_stat(5)). It
// returns true for a process that has ended.
func allThreads(p Process, states string) bool {
	dir := filepath.Join("/proc", strconv.Itoa(p.PID), "task")
	tasks, err := os.ReadDir(dir)
	if err != nil {
		return errors.Is(err, os.ErrNotExist)
	}
	for _, task := range tasks {
		st, err := statOf(filepath.Join(dir, task.Name()))
		if errors.Is(err, os.ErrNotExist) || errors.Is(err, unix.ESRCH) {
			continue
		}
		if err != nil || !strings.ContainsRune(states, rune(st.state)) {
			return false
		}
	}
	return true
}
