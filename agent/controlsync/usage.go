package controlsync

import (
	"cmp"
	"context"
	"slices"
	"sync"

	"github.com/google/uuid"
	"golang.org/x/sys/unix"

	"github.com/droverhq/drover/agent/findings"
	"github.com/droverhq/drover/backends"
	"github.com/droverhq/drover/control/api"
	"github.com/droverhq/drover/dataset"
	"github.com/droverhq/drover/internal/linux/mkfs"
)

// readUsage returns how many bytes a dataset uses, and how full it is. It walks no files. path is where the dataset is
// mounted, or "" if it is not. The usage is nil if the dataset has no limit that its pool can tell.
// exact says whether the usage is what df would show. For an unmounted filesystem it is an estimate from the blocks of
// its device, which can be allocated and free.
func readUsage(ctx context.Context, b backends.Pool, d dataset.Dataset, path string) (
	used dataset.Size, usage *dataset.Usage, exact bool, err error) {
	own := b.Info().Capabilities.OwnFilesystem
	seen := statfs(path)
	if own && seen != nil {
		return seen.Used, seen, true, nil
	}
	used, err = b.Used(ctx, d.ID)
	if err != nil || d.Size <= 0 {
		return used, nil, false, err
	}
	if seen != nil && seen.Used+seen.Available <= d.Size {
		// The kernel shows the limit of the directory as the size of the filesystem: project quotas. The inodes are
		// those of the whole pool.
		return used, &dataset.Usage{Used: seen.Used, Available: seen.Available}, true, nil
	}
	data := used
	if fs := d.Profile.Filesystem.Type; own && fs != "" {
		// The pool counts the blocks of the device, including those that the filesystem needs for itself.
		data = max(0, used-(mkfs.Device(fs, d.Size)-d.Size))
	}
	data = min(data, d.Size)
	return used, &dataset.Usage{Used: data, Available: d.Size - data}, !own, nil
}

// statfs returns the usage of the filesystem that is mounted at path as df shows it, or nil if path is "", cannot be
// read, or is no mount point. A dataset can be unmounted at any moment: statfs(2) then returns the figures of the
// filesystem below, which is that of the root of the host.
func statfs(path string) *dataset.Usage {
	if path == "" {
		return nil
	}
	before := mountID(path)
	var fs unix.Statfs_t
	if before == 0 || unix.Statfs(path, &fs) != nil || mountID(path) != before {
		return nil
	}
	usage := usageOf(fs)
	return &usage
}

// mountID returns the ID of the mount whose root is path, or 0 if path is not the root of a mount or cannot be read
// (statx(2), STATX_MNT_ID).
func mountID(path string) uint64 {
	var st unix.Statx_t
	const flags = unix.AT_SYMLINK_NOFOLLOW | unix.AT_NO_AUTOMOUNT | unix.AT_STATX_DONT_SYNC
	err := unix.Statx(unix.AT_FDCWD, path, flags, unix.STATX_MNT_ID, &st)
	if err != nil || st.Attributes&unix.STATX_ATTR_MOUNT_ROOT == 0 {
		return 0
	}
	return st.Mnt_id
}

// usageOf returns the figures of df for the result of statfs(2).
func usageOf(fs unix.Statfs_t) dataset.Usage {
	return dataset.Usage{
		Used:       bytes(fs.Blocks-fs.Bfree, fs.Frsize),
		Available:  bytes(fs.Bavail, fs.Frsize),
		Inodes:     int64(fs.Files),            //nolint:gosec // no filesystem has so many
		InodesUsed: int64(fs.Files - fs.Ffree), //nolint:gosec // no filesystem has so many
	}
}

func bytes(blocks uint64, each int64) dataset.Size {
	return dataset.Size(blocks) * dataset.Size(each) //nolint:gosec // no filesystem has so many
}

// usages remembers how full datasets are. It is safe for concurrent use.
type usages struct {
	mu   sync.Mutex
	last map[uuid.UUID]lastUsage
}

// lastUsage is the usage of a dataset when it was last read.
type lastUsage struct {
	usage    dataset.Usage
	fullness dataset.Fullness
	size     dataset.Size // of the dataset
	request  uuid.UUID    // the last request that changed the dataset
	exact    bool         // read from a mounted filesystem
}

// note records the usage of a dataset, and returns the usage and state to report. exact says that usage was read from a
// mounted filesystem. The pool knows less than the filesystem did. So the last exact usage of an unmounted dataset
// counts until the dataset is changed.
func (u *usages) note(d dataset.Dataset, usage *dataset.Usage, exact bool) (*dataset.Usage, dataset.Fullness) {
	u.mu.Lock()
	defer u.mu.Unlock()
	was, known := u.last[d.ID]
	if known && was.exact && !exact && was.size == d.Size && was.request == d.Request {
		usage, exact = &was.usage, true
	}
	if usage == nil {
		return nil, dataset.NotFull
	}
	next := lastUsage{usage: *usage, size: d.Size, request: d.Request, exact: exact}
	if d.Size > 0 && exact { // without a size, the space of the pool is the limit, and the pool is reported
		next.fullness = usage.Fullness(d.Profile.WarnAt, was.fullness)
	}
	if u.last == nil {
		u.last = map[uuid.UUID]lastUsage{}
	}
	u.last[d.ID] = next
	return usage, next.fullness
}

// Check adds findings about the volumes with little space left.
func (s *StatusReader) Check(r *findings.List) {
	var lines []api.Finding
	for id, u := range s.usages.full() {
		d, ok := s.Cache.Dataset(id)
		if !ok || d.State != dataset.StateReady {
			continue
		}
		level := findings.Warning
		if u.fullness == dataset.Full {
			level = findings.Error
		}
		lines = append(lines, api.Finding{
			Level: level, Subject: "volume " + d.Volume, Text: u.fullness.String() + ": " + u.usage.Describe(d.Size),
			Fix: d.GrowCommand(),
		})
	}
	slices.SortFunc(lines, func(x, y api.Finding) int { return cmp.Compare(x.Subject, y.Subject) })
	for _, f := range lines {
		r.Add(f.Level, f.Subject, f.Fix, "%s", f.Text)
	}
}

// full returns the usage of the datasets with little space left.
func (u *usages) full() map[uuid.UUID]lastUsage {
	u.mu.Lock()
	defer u.mu.Unlock()
	out := map[uuid.UUID]lastUsage{}
	for id, last := range u.last {
		if last.fullness != dataset.NotFull {
			out[id] = last
		}
	}
	return out
}

// forget drops the usage of a dataset that is no longer on this node.
func (u *usages) forget(id uuid.UUID) {
	u.mu.Lock()
	defer u.mu.Unlock()
	delete(u.last, id)
}
