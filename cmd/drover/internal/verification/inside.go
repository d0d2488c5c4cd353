package verification

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"path/filepath"
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/droverhq/drover/backends"
	"github.com/droverhq/drover/backends/verify"
	"github.com/droverhq/drover/internal/linux/mount"
)

// Inside runs in the separate process. It runs the suite in the folder at path and writes the events to w, as lines of
// JSON. An error becomes an event with a Problem. Inside fails only if it cannot write.
func Inside(ctx context.Context, kind backends.Kind, path string, w io.Writer) error {
	enc := json.NewEncoder(w)
	tell := func(e verify.Event) error { return enc.Encode(e) }
	err := unmountOthers(path)
	if err == nil {
		err = verify.Suite(ctx, kind, path, tell)
	}
	if err != nil {
		return tell(verify.Event{Problem: err.Error()})
	}
	return nil
}

// unmountOthers unmounts all mounts of this namespace except those that the suite and its commands need. Otherwise
// these mounts would keep filesystems in use that were unmounted elsewhere.
func unmountOthers(path string) error {
	table, err := mount.Table()
	if err != nil {
		return err
	}
	for _, m := range slices.Backward(table) {
		if isNeeded(m.Mountpoint, path) {
			continue
		}
		// EINVAL means that the mount was removed together with the one above it.
		err := unix.Unmount(m.Mountpoint, unix.MNT_DETACH|unix.UMOUNT_NOFOLLOW)
		if err != nil && !errors.Is(err, unix.EINVAL) && !errors.Is(err, unix.ENOENT) {
			return fmt.Errorf("release %s: %w", m.Mountpoint, err)
		}
	}
	return nil
}

// isNeeded reports whether the mount at point may be needed: by the suite, whose folder is at path, or by a command
// that the suite runs.
func isNeeded(point, path string) bool {
	if rel, err := filepath.Rel(point, path); err == nil && rel != ".." && !strings.HasPrefix(rel, "../") {
		return true
	}
	top, hasChild, _ := strings.Cut(strings.TrimPrefix(point, "/"), "/")
	switch {
	case slices.Contains([]string{"proc", "sys", "dev", "usr", "bin", "sbin", "etc"}, top),
		strings.HasPrefix(top, "lib"):
		return true
	}
	if point == "/run/lock" { // LVM's commands lock each other out with files there
		return true
	}
	return hasChild == "" && slices.Contains([]string{"run", "tmp", "var"}, top)
}
