package guard

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"runtime/debug"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

const (
	// priority is the lowest real-time priority. It preempts all processes that are not real-time: sched(7).
	priority = 1
	// heapLimit is the soft limit of Go's memory in bytes, ten times the size of a full table. Go collects garbage
	// as often as needed to stay below it.
	heapLimit = 128 << 20
	// heapGrowth is the growth of the heap between two collections of garbage, in percent.
	heapGrowth = 100
)

// Tune protects this process from shortages of the host: its memory is not paged out, it preempts all processes
// that are not real-time, and the kernel does not kill it when memory is short. It returns one line for each
// step that the host did not allow. A child inherits everything except the first protection, so it calls Tune
// as well.
func Tune() (missing []string) {
	debug.SetGCPercent(heapGrowth)
	debug.SetMemoryLimit(heapLimit)
	for _, t := range []struct {
		what string
		do   func() error
	}{
		{"its memory may be paged out (mlockall)", lockMemory},
		{"it has no priority over other processes (SCHED_RR)", realTime},
		{"it may be killed when memory is low (oom_score_adj)", keepAlive},
		{"it cannot see the open files of processes with more capabilities", allCapable},
	} {
		if err := t.do(); err != nil {
			missing = append(missing, fmt.Sprintf("%s: %v", t.what, err))
		}
	}
	return missing
}

// lockMemory keeps the memory that is in use, and the whole program, from being paged out (mlockall(2)): no
// instruction waits for a disk that hangs. It does not lock memory that Go has only reserved, which is many times as
// much.
func lockMemory() error {
	if err := unix.Mlockall(unix.MCL_CURRENT | unix.MCL_FUTURE | unix.MCL_ONFAULT); err != nil {
		return err
	}
	exe, err := os.Readlink("/proc/self/exe")
	if err != nil {
		return err
	}
	maps, err := os.ReadFile("/proc/self/maps")
	if err != nil {
		return err
	}
	for line := range bytes.Lines(maps) {
		if !bytes.HasSuffix(bytes.TrimSpace(line), []byte(exe)) {
			continue
		}
		span, _, _ := strings.Cut(string(line), " ")
		from, to, _ := strings.Cut(span, "-")
		start, err1 := strconv.ParseUint(from, 16, 64)
		end, err2 := strconv.ParseUint(to, 16, 64)
		if err := errors.Join(err1, err2); err != nil {
			return err
		}
		if _, _, errno := unix.Syscall(unix.SYS_MLOCK, uintptr(start), uintptr(end-start), 0); errno != 0 {
			return errno
		}
	}
	return nil
}

// realTime gives all threads a real-time policy. A new thread inherits the policy of the thread that creates it. A
// thread without the policy may create another one meanwhile. So realTime lists the threads again until it finds no
// such thread.
func realTime() error {
	for {
		tasks, err := os.ReadDir("/proc/self/task")
		if err != nil {
			return err
		}
		changed := false
		for _, t := range tasks {
			tid, err := strconv.Atoi(t.Name())
			if err != nil {
				return err
			}
			attr, err := unix.SchedGetAttr(tid, 0)
			if errors.Is(err, unix.ESRCH) {
				continue
			}
			if err != nil {
				return err
			}
			if attr.Policy == unix.SCHED_RR || attr.Policy == unix.SCHED_FIFO {
				continue
			}
			changed = true
			err = unix.SchedSetAttr(tid, &unix.SchedAttr{
				Size:     unix.SizeofSchedAttr,
				Policy:   unix.SCHED_RR,
				Priority: priority,
			}, 0)
			if err != nil && !errors.Is(err, unix.ESRCH) {
				return err
			}
		}
		if !changed {
			return nil
		}
	}
}

// allCapable fails unless this process has all capabilities that the host knows. ptrace(2) does not let it examine
// a process that has more capabilities.
func allCapable() error {
	last, err := os.ReadFile("/proc/sys/kernel/cap_last_cap")
	if err != nil {
		return err
	}
	n, err := strconv.Atoi(string(bytes.TrimSpace(last)))
	if err != nil {
		return err
	}
	status, err := os.ReadFile("/proc/self/status")
	if err != nil {
		return err
	}
	for line := range strings.Lines(string(status)) {
		if held, ok := strings.CutPrefix(line, "CapPrm:"); ok {
			have, err := strconv.ParseUint(strings.TrimSpace(held), 16, 64)
			if lacks := (uint64(1)<<(n+1) - 1) &^ have; err == nil && lacks != 0 {
				return fmt.Errorf("it lacks capabilities %#x", lacks)
			}
			return err
		}
	}
	return errors.New("no CapPrm in /proc/self/status")
}

const neverKill = "-1000" // oom_score_adj: proc_pid_oom_score_adj(5)

func keepAlive() error {
	const file = "/proc/self/oom_score_adj"
	if b, err := os.ReadFile(file); err == nil && string(bytes.TrimSpace(b)) == neverKill {
		return nil
	}
	return os.WriteFile(file, []byte(neverKill), 0)
}
