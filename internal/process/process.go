// Package process identifies a process of this host, also after it has ended.
package process

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// Identity is a process on one boot. The start time tells it from a later process with the same
// PID. The zero value is a process that is not known.
type Identity struct {
	PID   int    `json:"pid"`
	Start uint64 `json:"start"` // since the boot, in clock ticks: proc_pid_stat(5), starttime
}

// IsKnown reports whether i names a process.
func (i Identity) IsKnown() bool { return i != Identity{} }

// Of returns the identity of the process that has a PID now. It fails with an error that is
// os.ErrNotExist when this PID namespace has no such process.
func Of(pid int) (Identity, error) {
	start, _, err := stat(pid)
	if err != nil {
		return Identity{}, fmt.Errorf("identify process %d: %w", pid, err)
	}
	return Identity{PID: pid, Start: start}, nil
}

// HasEnded reports whether the process has ended. A zombie has ended. On an error it is not known.
func (i Identity) HasEnded() (bool, error) {
	start, state, err := stat(i.PID)
	switch {
	case errors.Is(err, os.ErrNotExist), errors.Is(err, unix.ESRCH):
		return true, nil
	case err != nil:
		return false, fmt.Errorf("look whether process %d has ended: %w", i.PID, err)
	}
	return start != i.Start || state == 'Z' || state == 'X', nil
}

// Program returns the name of the file that the process runs, without its folder. It fails when the
// process has ended.
func (i Identity) Program() (string, error) {
	exe, err := os.Readlink("/proc/" + strconv.Itoa(i.PID) + "/exe")
	if err != nil {
		return "", fmt.Errorf("look at the program of process %d: %w", i.PID, err)
	}
	if now, err := Of(i.PID); err != nil || now != i {
		return "", errors.Join(fmt.Errorf("look at the program of process %d: it has ended", i.PID), err)
	}
	return filepath.Base(strings.TrimSuffix(exe, " (deleted)")), nil // an upgrade replaces the file
}

// stat reads the start time and the state of a process: proc_pid_stat(5). The name of the program,
// which comes before both, may hold blanks and parentheses.
func stat(pid int) (start uint64, state byte, err error) {
	b, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/stat")
	if err != nil {
		return 0, 0, err
	}
	const startField = 19 // after the name, whose end is the last parenthesis
	f := bytes.Fields(b[bytes.LastIndexByte(b, ')')+1:])
	if len(f) <= startField {
		return 0, 0, fmt.Errorf("/proc/%d/stat has an unknown form", pid)
	}
	start, err = strconv.ParseUint(string(f[startField]), 10, 64)
	return start, f[0][0], err
}
