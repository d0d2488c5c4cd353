package zfs

import (
	"context"
	"fmt"
	"strings"
	"sync"
	"time"

	"github.com/google/uuid"
	"golang.org/x/sys/unix"

	"github.com/droverhq/drover/backends"
	"github.com/droverhq/drover/dataset"
	"github.com/droverhq/drover/internal/clock"
	"github.com/droverhq/drover/internal/linux/mount"
)

// measure reads the size of the parent filesystem with zfs(8). statfs(2) reports too small a size: the free space of
// the zpool plus the used space of only this filesystem.
func (p *Pool) measure(ctx context.Context) error {
	text, err := p.tool.value(ctx, "used,available", p.fs.name)
	if err != nil {
		return err
	}
	var total int64
	for n := range strings.Lines(text) {
		bytes, err := bytesOf(strings.TrimSpace(n))
		if err != nil {
			return fmt.Errorf("size of %s: %w", p.fs.name, err)
		}
		total += int64(bytes)
	}
	p.total.Store(total)
	return nil
}

// status returns the status of the pool. The size is from the last time that the pool was opened or listed.
func (p *Pool) status() dataset.PoolStatus {
	st := p.Shelf.Status()
	if st.Online {
		st.Size = max(dataset.Size(p.total.Load()), st.Free)
		if err := backends.CheckRoom(p.name, st.Free, st.Size); err != nil {
			st.Reason = err.Error()
		}
	}
	return st
}

// room returns dataset.ErrNoSpace if the pool is too full to begin something new, and dataset.ErrOffline if the pool is
// offline.
func (p *Pool) room() error {
	st := p.status()
	if !st.Online {
		return dataset.Errorf(dataset.ErrOffline, "%s", st.Reason)
	}
	return backends.CheckRoom(p.name, st.Free, st.Size)
}

// settle waits until ZFS has counted all writes. It sets a property to its present value, which waits for the
// transaction group.
func (p *Pool) settle(ctx context.Context) error {
	return p.tool.zfs(ctx, "set", poolProperty+"="+p.Shelf.ID().String(), p.top())
}

const (
	// listedFor is how long a listing of the usage of all filesystems is used before it is read again.
	listedFor = 5 * time.Second

	// usedLag bounds how old the result of Used can be. ZFS counts a write when its transaction group is on the disk:
	// after 5 s at most, and after 30 s with zfs-fuse.
	usedLag     = listedFor + 10*time.Second
	usedLagFuse = usedLag + 30*time.Second
)

// listing caches the usage of a pool's filesystems.
type listing struct {
	clock clock.Clock

	mu    sync.Mutex              // protects until and used. Held while zfs(8) runs: concurrent callers share a listing
	until time.Duration           // the listing is valid before this time of the steady clock
	used  map[string]dataset.Size // by the name of the filesystem
}

// Used implements backends.Pool. Agents call it for each mounted dataset every few seconds. For a mounted dataset it
// costs a statfs(2). All other datasets share one listing.
func (p *Pool) Used(ctx context.Context, id uuid.UUID) (dataset.Size, error) {
	f, err := p.Shelf.FindDataset(id)
	if err != nil {
		return 0, err
	}
	defer f.Close()
	name, err := headName(f.Dir, f.ID)
	if err != nil {
		return 0, err
	}
	fs := p.root(id) + "/" + name
	if used, ok, err := usedOfMounted(fs); ok || err != nil {
		return used, err
	}
	if used, ok, err := p.listed(ctx, fs); ok || err != nil {
		return used, err
	}
	head, err := p.headOf(ctx, f) // it is newer than the listing, or was destroyed
	return head.referenced, err
}

// Compresses implements backends.Compressor. Drover makes its pools with compression, and an existing one may have it.
func (*Pool) Compresses() bool { return true }

// UniqueSize implements backends.SnapshotMeasurer. ZFS counts the blocks that only a snapshot refers to.
func (p *Pool) UniqueSize(ctx context.Context, ds, id uuid.UUID) (dataset.Size, error) {
	f, err := p.Shelf.FindDataset(ds)
	if err != nil {
		return 0, err
	}
	defer f.Close()
	s, err := readSnapshot(f, id)
	if err != nil {
		return 0, err
	}
	text, err := p.tool.value(ctx, "used", p.snapshotName(ds, s.FS, id))
	if err != nil {
		return 0, err
	}
	return bytesOf(text)
}

// usedOfMounted returns the usage of a filesystem from statfs(2), if it is mounted in this mount namespace. Whether the
// filesystem has a refquota or not, statfs(2) counts the blocks that it refers to as used.
func usedOfMounted(fs string) (used dataset.Size, ok bool, err error) {
	table, err := mount.Table()
	if err != nil {
		return 0, false, err
	}
	for _, m := range table {
		if m.Source != fs || !isZFS(m) {
			continue
		}
		var st unix.Statfs_t
		var at unix.Statx_t
		if unix.Statfs(m.Mountpoint, &st) != nil ||
			unix.Statx(unix.AT_FDCWD, m.Mountpoint, unix.AT_STATX_DONT_SYNC, unix.STATX_TYPE, &at) != nil {
			continue
		}
		if int(at.Dev_major) == m.Major && int(at.Dev_minor) == m.Minor { // still mounted, and not hidden
			return dataset.Size(st.Blocks-st.Bfree) * dataset.Size(st.Frsize), true, nil
		}
	}
	return 0, false, nil
}

// listed returns the usage of a filesystem from the listing. It returns false if the filesystem is not listed.
func (p *Pool) listed(ctx context.Context, fs string) (dataset.Size, bool, error) {
	l := &p.listing
	l.mu.Lock()
	defer l.mu.Unlock()
	if now := l.clock.Steady(); l.used == nil || now >= l.until {
		p.unloadIdle()
		all, err := p.tool.get(ctx, "-d", "2", p.top())
		if err != nil {
			return 0, false, err
		}
		l.used, l.until = map[string]dataset.Size{}, now+listedFor
		for _, o := range all {
			l.used[o.name] = o.referenced
		}
	}
	used, ok := l.used[fs]
	return used, ok, nil
}
