package zfs

import (
	"context"
	"fmt"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/google/uuid"
	"golang.org/x/sys/unix"

	"github.com/droverhq/drover/backends"
	"github.com/droverhq/drover/dataset"
	"github.com/droverhq/drover/internal/clock"
	"github.com/droverhq/drover/internal/linux/mount"
)

// space measures the free space of the pool.
type space struct {
	*storage
	total atomic.Int64 // bytes of the home, used and free, when last looked at
}

// measure returns the size of the home: statfs(2) reports the free space, but only the used space of this one
// filesystem of the zpool.
func (v *space) measure(ctx context.Context) error {
	text, err := v.tool.value(ctx, "used,available", v.home.name)
	if err != nil {
		return err
	}
	var total int64
	for n := range strings.Lines(text) {
		bytes, err := bytesOf(strings.TrimSpace(n))
		if err != nil {
			return fmt.Errorf("size of %s: %w", v.home.name, err)
		}
		total += int64(bytes)
	}
	v.total.Store(total)
	return nil
}

// status returns the status of the pool. Its size is that of when the pool was last opened or listed.
func (v *space) status() dataset.PoolStatus {
	st := v.shelf.Status()
	if st.Online {
		st.Size = max(dataset.Size(v.total.Load()), st.Free)
		if err := backends.Room(v.name, st.Free, st.Size); err != nil {
			st.Reason = err.Error()
		}
	}
	return st
}

// room fails with ErrNoSpace while nothing new should begin in the pool.
func (v *space) room() error {
	st := v.status()
	if !st.Online {
		return dataset.Errorf(dataset.ErrOffline, "%s", st.Reason)
	}
	return backends.Room(v.name, st.Free, st.Size)
}

// settle waits until all writes are counted: setting a property to its present value waits for the transaction group.
func (v *space) settle(ctx context.Context) error {
	return v.tool.zfs(ctx, "set", poolProperty+"="+v.shelf.ID().String(), v.top())
}

const (
	// listedFor is how long one listing of what all filesystems of a pool take is good.
	listedFor = 5 * time.Second

	// usedLag is longer than the time after which ZFS has counted a write: when the transaction group of the
	// write is on the disk, after 5 s at most, and after 30 s with zfs-fuse.
	usedLag     = listedFor + 10*time.Second
	usedLagFuse = usedLag + 30*time.Second
)

// listing is the usage of a pool's filesystems at the last call of zfs(8).
type listing struct {
	clock clock.Clock

	mu    sync.Mutex // held during the call: other callers meanwhile have the same question
	until time.Duration
	of    map[string]dataset.Size
}

// Used implements backends.Pool. Agents ask it of each mounted dataset every few seconds:
// those cost a statfs(2), all others together one listing.
func (p *Pool) Used(ctx context.Context, id uuid.UUID) (dataset.Size, error) {
	f, err := p.shelf.Find(id)
	if err != nil {
		return 0, err
	}
	defer f.Close()
	name, err := headName(f.Root, f.ID)
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
	head, err := p.headOf(ctx, f) // made since then, or gone
	return head.referenced, err
}

// usedOfMounted asks a filesystem that is mounted somewhere in this mount namespace: its used blocks are the
// data that it refers to, with every refquota.
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
		if int(at.Dev_major) == m.Major && int(at.Dev_minor) == m.Minor { // it was not unmounted since, nor hidden
			return dataset.Size(st.Blocks-st.Bfree) * dataset.Size(st.Frsize), true, nil
		}
	}
	return 0, false, nil
}

// listed returns the last known usage of a filesystem; false: it was not there.
func (p *Pool) listed(ctx context.Context, fs string) (dataset.Size, bool, error) {
	l := &p.listing
	l.mu.Lock()
	defer l.mu.Unlock()
	if now := l.clock.Steady(); l.of == nil || now >= l.until {
		p.keys.lockIdle()
		all, err := p.tool.heads(ctx, p.top())
		if err != nil {
			return 0, false, err
		}
		l.of, l.until = map[string]dataset.Size{}, now+listedFor
		for _, o := range all {
			l.of[o.name] = o.referenced
		}
	}
	used, ok := l.of[fs]
	return used, ok, nil
}
