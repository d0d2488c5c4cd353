package zfs

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/google/uuid"
	"golang.org/x/sys/unix"

	"github.com/droverhq/drover/backends"
	"github.com/droverhq/drover/backends/shelf"
	"github.com/droverhq/drover/dataset"
	"github.com/droverhq/drover/internal/linux/inuse"
	"github.com/droverhq/drover/internal/linux/mount"
)

// attachments counts the attachments of each dataset that were not released. With zfs-fuse Drover also mounts the
// heads; see fuseType.
type attachments struct {
	staging  sync.Mutex // protects staged, and is held while a head of zfs-fuse is mounted or unmounted
	staged   map[uuid.UUID]bool
	attached backends.Attachments

	mountPath func(uuid.UUID) string // the path on which the agent mounts a dataset: see backends.Config
}

// fsType is the name of the filesystem type in the mount table.
const fsType = "zfs"

// isZFS reports whether a mount is a ZFS filesystem, but not a snapshot.
func isZFS(m *mount.Entry) bool {
	return (m.FSType == fsType || m.FSType == fuseType) && !strings.Contains(m.Source, "@")
}

// Attach implements backends.Pool.
func (p *Pool) Attach(ctx context.Context, id uuid.UUID, opts backends.AttachOptions) (backends.Attachment, error) {
	if err := shelf.CheckFilesystem(Name, dataset.Filesystem{Mount: opts.Mount}); err != nil {
		return backends.Attachment{}, err
	}
	f, err := p.Shelf.FindDataset(id)
	if err != nil {
		return backends.Attachment{}, err
	}
	defer f.Close()
	head, err := p.headOf(ctx, f)
	if err != nil {
		return backends.Attachment{}, err
	}
	lock, err := p.unlock(ctx, f, head.name)
	if err != nil {
		return backends.Attachment{}, fmt.Errorf("dataset %s: %w", id, err)
	}
	source, kind := head.name, fsType
	release := p.attachments.attached.Add(id)
	if p.fs.fuse {
		if source, err = p.stage(ctx, id, head.name); err != nil {
			release()
			return backends.Attachment{}, err
		}
		kind = "bind"
	}
	var once sync.Once
	return backends.Attachment{
		Mount: backends.Mount{
			Source: source, FSType: kind,
			// A device node in a volume must not give access to a disk of the host.
			Flags: backends.MountFlags{ReadOnly: opts.ReadOnly, NoDev: true},
		},
		Release: func() error {
			once.Do(func() { release(); lock() })
			return nil
		},
	}, nil
}

// openHead opens the root directory of a head that is not mounted.
func (p *Pool) openHead(ctx context.Context, id uuid.UUID, head string) (*os.File, error) {
	if !p.fs.fuse {
		return mount.Detached(mount.Spec{Source: head, FSType: fsType, Options: []string{"nodev"}})
	}
	dir, err := p.stage(ctx, id, head)
	if err != nil {
		return nil, err
	}
	return os.Open(dir)
}

// CheckIdle implements backends.IdleChecker.
func (p *Pool) CheckIdle(_ context.Context, id uuid.UUID) error { return p.checkIdle(id) }

// checkIdle returns dataset.ErrInUse if a dataset is attached or mounted, in this mount namespace or in another one.
// The error names the mount point or the process.
func (p *Pool) checkIdle(id uuid.UUID) error {
	if err := p.checkHere(id); err != nil {
		return err
	}
	others, err := mount.ReadForeign()
	if err != nil {
		return fmt.Errorf("check whether dataset %s is mounted: %w", id, err)
	}
	for _, h := range others.From(p.root(id), p.attachments.mountPath(id)) {
		return dataset.Errorf(dataset.ErrInUse, "dataset %s is in use: %w", id, inuse.MountUser(h))
	}
	return nil
}

// checkHere is checkIdle for this mount namespace.
func (p *Pool) checkHere(id uuid.UUID) error {
	if err := p.attachments.attached.CheckNone(id); err != nil {
		return err
	}
	at, err := p.mountedAt(id)
	if err != nil {
		return fmt.Errorf("check whether dataset %s is mounted: %w", id, err)
	}
	if at != "" {
		return dataset.Errorf(dataset.ErrInUse, "dataset %s: %w", id, inuse.PathUser(at))
	}
	if p.fs.fuse {
		return p.unstage(id)
	}
	return nil
}

// mountedAt returns where a dataset is mounted in this mount namespace, apart from the staging mount of zfs-fuse. It
// returns "" if the dataset is not mounted.
func (p *Pool) mountedAt(id uuid.UUID) (string, error) {
	table, err := mount.Table()
	if err != nil {
		return "", err
	}
	for _, m := range table {
		if isZFS(m) && strings.HasPrefix(m.Source, p.root(id)+"/") && m.Mountpoint != p.stageDir(id) {
			return m.Mountpoint, nil
		}
	}
	return "", nil
}

// zfs-fuse differs from OpenZFS in how a head is mounted. The code for it is below. Drover is only tested with
// zfs-fuse: do not store data on it.
//
// mount(2) cannot mount a filesystem of zfs-fuse. The server of zfs-fuse mounts the filesystem at the request of
// zfs(8), and only on the path in the property mountpoint. So stage mounts a head on a separate directory, and the
// caller binds that directory to the requested place. The property mountpoint is therefore not legacy, but
// canmount=noauto still prevents zfs from mounting the head by itself. The staging mount stays until checkIdle finds no
// other mount in this namespace, for example before the dataset is deleted or restored, or until the pool is closed. It
// is the last mount to be removed.
//
// The server has a fault. If a file is closed right before the last unmount, the kernel drops the requests that the
// server has not read yet. The server can then treat the file as open for ever. It waits for the file to be closed, and
// meanwhile holds a lock that all its filesystems need. The lasting staging mount avoids that.

// fuseType is the filesystem type of zfs-fuse in the mount table.
const fuseType = "fuse.zfs"

// fuseSocket is the socket on which zfs-fuse listens.
const fuseSocket = "/var/run/zfs/zfs_socket"

// stageDir returns the directory of the staging mount of a head.
func (p *Pool) stageDir(id uuid.UUID) string {
	return filepath.Join(os.TempDir(), "drover-zfs-"+p.Shelf.ID().String(), id.String())
}

// StagingPath implements backends.Stager.
func (p *Pool) StagingPath(id uuid.UUID) string {
	if !p.fs.fuse {
		return ""
	}
	return p.stageDir(id)
}

// stage mounts a head on its staging directory and returns the directory. If the head is mounted already, stage returns
// the directory on which it is mounted.
func (p *Pool) stage(ctx context.Context, id uuid.UUID, head string) (string, error) {
	p.attachments.staging.Lock()
	defer p.attachments.staging.Unlock()
	table, err := mount.Table()
	if err != nil {
		return "", err
	}
	for _, m := range table {
		if m.FSType == fuseType && m.Source == head {
			if m.Mountpoint == p.stageDir(id) {
				p.attachments.staged[id] = true
			}
			return m.Mountpoint, nil
		}
	}
	dir := p.stageDir(id)
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return "", err
	}
	if err := checkOwned(filepath.Dir(dir)); err != nil {
		return "", err
	}
	if err := p.tool.zfs(ctx, "set", "mountpoint="+dir, head); err != nil {
		return "", err
	}
	err = p.tool.retryBusy(ctx, "mount", head)
	p.attachments.staged[id] = err == nil
	return dir, err
}

// checkOwned returns dataset.ErrConflict if another user made the directory, or others can access it.
func checkOwned(dir string) error {
	var st unix.Stat_t
	if err := unix.Lstat(dir, &st); err != nil {
		return err
	}
	if st.Mode != unix.S_IFDIR|0o700 || st.Uid != uint32(os.Geteuid()) {
		return dataset.Errorf(dataset.ErrConflict, "%s is not drover's: remove it", dir)
	}
	return nil
}

// unstage removes the staging mount. It detaches the mount lazily, because a directory in it may be open. Bind mounts
// of it stay.
func (p *Pool) unstage(id uuid.UUID) error {
	p.attachments.staging.Lock()
	defer p.attachments.staging.Unlock()
	delete(p.attachments.staged, id)
	dir := p.stageDir(id)
	// The server must read its waiting requests: later requests wait for their answers.
	for range 8 {
		var st unix.Statfs_t
		_ = unix.Statfs(dir, &st)
		<-time.After(time.Millisecond)
	}
	err := unix.Unmount(dir, unix.MNT_DETACH|unix.UMOUNT_NOFOLLOW)
	if err != nil && !errors.Is(err, unix.EINVAL) && !errors.Is(err, unix.ENOENT) {
		return fmt.Errorf("unmount %s: %w", dir, err)
	}
	_ = os.Remove(dir)
	_ = os.Remove(filepath.Dir(dir)) // succeeds only if it is empty
	return nil
}

// unstageAll removes the staging mounts of all datasets that are mounted nowhere else.
func (p *Pool) unstageAll() error {
	p.attachments.staging.Lock()
	staged := slices.Collect(maps.Keys(p.attachments.staged))
	p.attachments.staging.Unlock()
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

// dropStaging removes the staging mount of a dataset. Without zfs-fuse it does nothing.
func (p *Pool) dropStaging(id uuid.UUID) error {
	if !p.fs.fuse {
		return nil
	}
	return p.unstage(id)
}
