package chaos

import (
	"errors"
	"fmt"
	"path/filepath"
	"strconv"
	"testing"

	"github.com/droverhq/drover/control/api"
	"github.com/droverhq/drover/dataset"
	"github.com/droverhq/drover/internal/linux/loopdev"
	"github.com/droverhq/drover/internal/linux/mount"
	"github.com/droverhq/drover/test/cluster"
	"github.com/droverhq/drover/test/host"
)

// sweeper removes the volumes at the end, and finds what is left over.
type sweeper struct {
	*scene
	restorer *restorer
}

// sweep removes all volumes. The test fails if anything of them is left: data, mounts, loop devices, processes.
func (w *sweeper) sweep(t testing.TB) {
	t.Helper()
	// An agent may notice only now that the store was restored. A recovery then finds further volumes.
	remove := func() error {
		if err := w.restorer.recover(t.Context(), t); err != nil {
			return err
		}
		return w.remove(t)
	}
	host.Await(t, "no volume is left", remove)
	for _, h := range w.Hosts {
		host.Await(t, "nothing is left on "+h.Name, func() error {
			if err := remove(); err != nil {
				return err
			}
			return w.findRemains(h)
		})
		// A deletion that failed while the store was inconsistent is tried again within 30 seconds.
		host.AwaitNoFinding(t, h.Host, "is pending deletion")
		h.Clean(t, cluster.WeakGuard)
	}
}

// remove deletes all volumes and empties the trash. The profiles purge deleted data. But a recovery of the store puts
// datasets in the trash if nobody knows whether a user was told of them, and only a person purges these. On a busy
// machine a node may be unreachable for a moment. Requests to remove its volumes then fail with an error that asks to
// wait.
func (w *sweeper) remove(t testing.TB) (err error) {
	t.Helper()
	control := w.Controls[1]
	does := func(args ...string) {
		if r := control.Exec(t, args...); r.Exit != 0 {
			err = errors.Join(err, errors.New(r.Err))
		}
	}
	var all []api.Volume
	control.JSON(t, &all, "volume", "ls")
	for _, v := range all {
		for _, c := range v.CopyDetails {
			if c.Kind == dataset.CopySuperseded {
				does("copy", "discard", v.Volume, c.NodeName, "--yes")
			}
		}
		does("volume", "rm", v.Volume, "--force", "--yes")
	}
	var deleted []api.Volume
	if control.JSON(t, &deleted, "trash", "ls"); len(deleted) > 0 {
		does("trash", "purge", "--all", "--yes")
	}
	return err
}

// findRemains returns an error that lists the remains of volumes on a host.
func (w *sweeper) findRemains(h *cluster.Host) (err error) {
	for _, state := range []string{"datasets", "incoming", "copies", "deleting"} {
		found, gerr := filepath.Glob(h.File(filepath.Join(h.Host.Dir, "disk", "pool", state, "*")))
		err = errors.Join(err, gerr)
		if len(found) > 0 {
			err = errors.Join(err, fmt.Errorf("left: %v", found))
		}
	}
	merr := h.On.Do(func() error {
		table, err := mount.Table()
		for _, m := range table.Under(filepath.Join(h.Root, "mnt")) {
			err = errors.Join(err, fmt.Errorf("mounted: %s", m.Mountpoint))
		}
		return err
	})
	devices, lerr := loopdev.List()
	for _, d := range devices {
		if dir, derr := filepath.Rel(filepath.Join(h.Host.Dir, "disk"), d.Backing); derr == nil &&
			filepath.IsLocal(dir) {
			lerr = errors.Join(lerr, fmt.Errorf("loop device: %s of %s", d.Path, d.Backing))
		}
	}
	for _, pid := range h.On.Processes() {
		if pid != h.PID() && pid != h.Guard.PID() && parent(pid) != h.Guard.PID() &&
			pid != w.engines[h].process().PID() {
			err = errors.Join(err, fmt.Errorf("process %d runs, which is neither the agent nor the engine, "+
				"the guard or its hand", pid))
		}
	}
	return errors.Join(err, merr, lerr)
}

// parent returns the parent of a process, or 0 if the process no longer exists.
func parent(pid int) int {
	ppid, _ := strconv.Atoi(status(pid, "PPid"))
	return ppid
}
