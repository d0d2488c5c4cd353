package zfs

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"time"

	"github.com/google/uuid"
	"golang.org/x/sys/unix"

	"github.com/droverhq/drover/dataset"
	"github.com/droverhq/drover/internal/linux/mount"
)

// This file is all that is different with zfs-fuse, whose filesystems no mount(2) can
// mount: its server does that, when zfs(8) asks it to, and only where the property
// mountpoint says. So a head is mounted on a directory of its own and bound from there to
// where it is wanted; that first mount stays until the dataset is deleted or restored, or
// the pool closed, and is the last to go. Its mountpoint is therefore not legacy; with canmount=noauto nothing
// mounts it by itself all the same. Drover is tested with zfs-fuse; it is nothing to keep
// data on.
//
// That server has a fault: a file closed right before the last unmount can be open to it
// for ever, because the kernel drops requests that the server has not read by then. It waits for that with a
// lock held that all its filesystems need. Hence the first mount that stays, and settle.

// fuseType is the type of zfs-fuse's filesystems in the mount table.
const fuseType = "fuse.zfs"

// fuseSocket is where zfs-fuse listens.
const fuseSocket = "/var/run/zfs/zfs_socket"

// stageDir is where heads are mounted for a moment.
func (p *Pool) stageDir(id uuid.UUID) string {
	return filepath.Join(os.TempDir(), "drover-zfs-"+p.ID().String(), id.String())
}

// Staged implements backends.Stager.
func (p *Pool) Staged(id uuid.UUID) string {
	if !p.home.fuse {
		return ""
	}
	return p.stageDir(id)
}

// stage mounts a head, or finds it mounted, and returns where.
func (p *Pool) stage(ctx context.Context, id uuid.UUID, head string) (string, error) {
	p.staging.Lock()
	defer p.staging.Unlock()
	table, err := mount.Table()
	if err != nil {
		return "", err
	}
	for _, m := range table {
		if m.FSType == fuseType && m.Source == head {
			if m.Mountpoint == p.stageDir(id) {
				p.staged[id] = true
			}
			return m.Mountpoint, nil
		}
	}
	dir := p.stageDir(id)
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return "", err
	}
	if err := owned(filepath.Dir(dir)); err != nil {
		return "", err
	}
	if err := p.tool.zfs(ctx, "set", "mountpoint="+dir, head); err != nil {
		return "", err
	}
	err = p.tool.patiently(ctx, "mount", head)
	p.staged[id] = err == nil
	return dir, err
}

// owned refuses a directory that another user made first.
func owned(dir string) error {
	var st unix.Stat_t
	if err := unix.Lstat(dir, &st); err != nil {
		return err
	}
	if st.Mode != unix.S_IFDIR|0o700 || st.Uid != uint32(os.Geteuid()) {
		return dataset.Errorf(dataset.ErrConflict, "%s is not drover's: remove it", dir)
	}
	return nil
}

// unstage takes that mount away: lazily, for a directory of it may be open. Where it was
// bound to, it stays.
func (p *Pool) unstage(id uuid.UUID) error {
	p.staging.Lock()
	defer p.staging.Unlock()
	delete(p.staged, id)
	dir := p.stageDir(id)
	settle(dir)
	err := unix.Unmount(dir, unix.MNT_DETACH|unix.UMOUNT_NOFOLLOW)
	if err != nil && !errors.Is(err, unix.EINVAL) && !errors.Is(err, unix.ENOENT) {
		return fmt.Errorf("unmount %s: %w", dir, err)
	}
	_ = os.Remove(dir)
	_ = os.Remove(filepath.Dir(dir)) // when it was the last
	return nil
}

// settle makes the server read its waiting requests: it sends a later request and waits for the answer.
func settle(dir string) {
	for range 8 {
		var st unix.Statfs_t
		_ = unix.Statfs(dir, &st)
		<-time.After(time.Millisecond)
	}
}

// unstageAll is unstage of all that are mounted nowhere else.
func (p *Pool) unstageAll() error {
	p.staging.Lock()
	staged := slices.Collect(maps.Keys(p.staged))
	p.staging.Unlock()
	var errs []error
	for _, id := range staged {
		at, err := p.mountedAt(id)
		if at == "" && err == nil {
			err = p.unstage(id)
		}
		errs = append(errs, err)
	}
	return errors.Join(errs...)
}
