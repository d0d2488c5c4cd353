package iolimit

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// RunInGroup moves this process to a new group below the root group and calls do. Afterwards it removes the group with
// its rules. The name of the group is prefix and the PID. Groups with the same prefix whose process was killed are
// removed too.
//
// Only one goroutine of a process may call RunInGroup at a time. The rules of the group also apply to everything else
// that the process does meanwhile. Processes that it starts are in the group too, and must end before do returns.
func (h Hierarchy) RunInGroup(prefix string, do func(group string) error) (err error) {
	home, ok := h.GroupOf(os.Getpid())
	if !ok {
		return errors.New("the control group of this process is not visible from here")
	}
	h.removeStale(prefix)
	group := Root + prefix + strconv.Itoa(os.Getpid())
	if err := h.make(group); err != nil {
		return err
	}
	defer func() {
		if rErr := unix.Rmdir(h.path(group)); rErr != nil {
			err = errors.Join(err, fmt.Errorf("remove control group %s: %w", group, rErr))
		}
	}()
	if err := h.enter(group); err != nil {
		return err
	}
	defer func() { err = errors.Join(err, h.enter(home)) }()
	return do(group)
}

// make creates a group that can have limits.
func (h Hierarchy) make(group string) error {
	if h.Version == V2 {
		return h.Enable(group)
	}
	if err := os.Mkdir(h.path(group), 0o755); err != nil && !errors.Is(err, os.ErrExist) {
		return fmt.Errorf("create control group %s: %w", group, err)
	}
	return nil
}

// enter moves this process to a group.
func (h Hierarchy) enter(group string) error {
	if err := write(filepath.Join(h.path(group), "cgroup.procs"), strconv.Itoa(os.Getpid())); err != nil {
		return fmt.Errorf("enter control group %s: %w", group, err)
	}
	return nil
}

// removeStale removes the groups that killed processes have left behind. The kernel refuses to remove a group that is
// in use.
func (h Hierarchy) removeStale(prefix string) {
	stale, _ := filepath.Glob(filepath.Join(h.Dir, prefix+"*"))
	for _, path := range stale {
		pid, err := strconv.Atoi(strings.TrimPrefix(filepath.Base(path), prefix))
		if err == nil && unix.Kill(pid, 0) == unix.ESRCH {
			_ = unix.Rmdir(path)
		}
	}
}
