package shelf

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/google/uuid"
	"golang.org/x/sys/unix"

	"github.com/droverhq/drover/backends"
	"github.com/droverhq/drover/dataset"
	"github.com/droverhq/drover/internal/clock"
	"github.com/droverhq/drover/internal/linux/inuse"
	"github.com/droverhq/drover/internal/linux/mount"
)

// Uses counts attachments, for backends whose datasets are mounted by binding a tree.
// The zero value is ready.
type Uses struct {
	mu       sync.Mutex
	attached map[uuid.UUID]int // that were not released

	elsewhere func() (*mount.Foreign, error)                                  // for tests; nil: mount.Elsewhere
	files     func(context.Context, []mount.Filesystem) (*inuse.Files, error) // for tests; nil: inuse.Open
}

// Bind attaches a tree of a folder; see backends.Pool.
func (u *Uses) Bind(s *Shelf, f *Folder, tree string, readOnly bool) backends.Attachment {
	u.mu.Lock()
	defer u.mu.Unlock()
	if u.attached == nil {
		u.attached = map[uuid.UUID]int{}
	}
	id := f.ID
	u.attached[id]++
	var once sync.Once
	return backends.Attachment{
		Mount: backends.Mount{
			Source: filepath.Join(s.PathOf(f), tree),
			FSType: "bind",
			// A device node in a volume must not give access to a disk of the host.
			Flags: backends.MountFlags{ReadOnly: readOnly, NoDev: true},
		},
		Release: func() error {
			once.Do(func() { u.release(id) })
			return nil
		},
	}
}

func (u *Uses) release(id uuid.UUID) {
	u.mu.Lock()
	defer u.mu.Unlock()
	if u.attached[id]--; u.attached[id] == 0 {
		delete(u.attached, id)
	}
}

// A container that is being started has a copy of each mount of the host until its runtime drops them,
// also of a dataset that was unmounted meanwhile: a mount that is seen only in another mount namespace must
// be there for half a second before the dataset counts as in use.
const (
	lookTries = 5
	lookPause = 100 * time.Millisecond
	// lookBound is how long looks are repeated. One look can take many seconds on a busy host.
	lookBound = 2 * time.Second
)

// None fails with dataset.ErrInUse while a dataset is attached, something of its folder is mounted
// anywhere on this host, in another mount namespace too, or a process has a directory or file of it open
// (see inuse.Open). Only the kernel's list of open files shows a file that a container handed to another
// process. A backend calls None before it replaces or destroys a head, or copies one file by file. A look
// that fails is an error.
func (u *Uses) None(ctx context.Context, id uuid.UUID, folder string) error {
	u.mu.Lock()
	n := u.attached[id]
	u.mu.Unlock()
	if n > 0 {
		return dataset.Errorf(dataset.ErrInUse, "dataset %s is about to be mounted", id)
	}
	began := clock.System{}.Steady()
	for try := 0; ; try++ {
		at, err := u.usedAt(ctx, folder)
		switch {
		case err != nil:
			return fmt.Errorf("find out whether dataset %s is mounted: %w", id, err)
		case at.untold:
			return dataset.Errorf(dataset.ErrInUse,
				"dataset %s: what of its share is mounted at %s cannot be told, so that may be in use: "+
					"unmount that first", id, at.point)
		case at.point != "":
			return dataset.Errorf(dataset.ErrInUse, "dataset %s is mounted at %s", id, at.point)
		case at.user == "":
			return nil
		case try == lookTries || ctx.Err() != nil || clock.System{}.Steady()-began > lookBound:
			return dataset.Errorf(dataset.ErrInUse, "dataset %s is in use: %s", id, at.user)
		}
		select {
		case <-ctx.Done():
		case <-time.After(lookPause):
		}
	}
}

// where is a place where something is mounted; the zero value: nowhere.
type where struct {
	point  string // in this mount namespace
	untold bool   // another directory of the share may be mounted there
	user   string // describes a process that has it mounted in another mount namespace, or has it open
}

// rootsOf returns the entries of the mount table for a directory of a share, and for those in it, if they are mounted.
func rootsOf(dir *os.File) (map[string]bool, error) {
	entries, err := dir.ReadDir(-1)
	if err != nil {
		return nil, err
	}
	self, err := dir.Stat()
	if err != nil {
		return nil, err
	}
	ours := map[string]bool{rootOf(self): true}
	for _, e := range entries {
		if !e.IsDir() {
			continue
		}
		info, err := e.Info()
		switch {
		case err == nil:
			ours[rootOf(info)] = true
		case !errors.Is(err, fs.ErrNotExist):
			return nil, err
		}
	}
	return ours, nil
}

// mountedOf returns where one of the mounts of a share is of the directories with these roots, or may be.
func mountedOf(roots map[string]bool, mounts mount.Mounts) (at where) {
	for _, m := range mounts {
		if roots[m.Root] {
			return where{point: m.Mountpoint}
		}
		if mount.Untold(m) {
			at = where{point: m.Mountpoint, untold: true}
		}
	}
	return at
}

// rootOf returns the root in the mount table for a mounted directory of a share.
func rootOf(dir os.FileInfo) string {
	st, ok := dir.Sys().(*syscall.Stat_t)
	if !ok {
		return ""
	}
	return mount.RootOf(st.Ino)
}

// usedAt returns where a directory, or something below it, is mounted or open, or where something is
// mounted below it; nowhere when none is. It looks in this mount namespace first, then in all others, and
// last at what processes have open. It recognizes a bind mount by its root: the path in its
// filesystem, as the mount table shows it (proc_pid_mountinfo(5)).
func (u *Uses) usedAt(ctx context.Context, folder string) (at where, err error) {
	dir, err := os.Open(folder)
	if err != nil {
		return at, err
	}
	defer dir.Close()
	table, err := mount.Table()
	if err != nil {
		return at, err
	}
	tree, path, kind, err := lies(dir, table)
	if err != nil {
		return at, err
	}
	roots := map[string]bool{tree.Root: true}
	if strings.HasPrefix(kind, "nfs") {
		if roots, err = rootsOf(dir); err != nil {
			return at, err
		}
	}
	if at = mountedHere(table, tree, path, kind, roots); at.point != "" {
		return at, nil
	}
	look := u.elsewhere
	if look == nil {
		look = mount.Elsewhere
	}
	others, err := look()
	if err != nil {
		return at, err
	}
	inPool := tree
	for tree.Root = range roots {
		if list := others.Holders(tree, ""); len(list) > 0 {
			return where{user: list[0].String()}, nil
		}
	}
	roots[inPool.Root] = true // a file can be open through the pool's mount of a share as well
	return u.openedIn(ctx, tree, roots)
}

// openedIn returns a process that has something open in one of the directories with these roots.
func (u *Uses) openedIn(ctx context.Context, tree mount.Filesystem, roots map[string]bool) (at where, err error) {
	open := u.files
	if open == nil {
		open = inuse.Open
	}
	files, err := open(ctx, []mount.Filesystem{tree})
	if err != nil {
		return at, err
	}
	for tree.Root = range roots {
		if list := files.Openers(tree, nil); len(list) > 0 {
			return where{user: list[0].String()}, nil
		}
	}
	return at, nil
}

// mountedHere is usedAt for the mounts of this mount namespace.
func mountedHere(table mount.Mounts, tree mount.Filesystem, path, kind string, roots map[string]bool) where {
	if below := table.Under(path); len(below) > 0 {
		return where{point: below[0].Mountpoint}
	}
	mounts := table.Of(tree.Major, tree.Minor)
	if strings.HasPrefix(kind, "nfs") {
		return mountedOf(roots, mounts)
	}
	for _, m := range mounts {
		if m.Root == tree.Root || strings.HasPrefix(m.Root, tree.Root+"/") {
			return where{point: m.Mountpoint}
		}
	}
	return where{}
}

// lies returns the filesystem and the tree of an open directory, its path, and the kind of that filesystem.
func lies(dir *os.File, table mount.Mounts) (tree mount.Filesystem, path, kind string, err error) {
	var st unix.Statx_t
	if err := unix.Statx(int(dir.Fd()), "", unix.AT_EMPTY_PATH, unix.STATX_MNT_ID, &st); err != nil {
		return tree, "", "", err
	}
	if path, err = os.Readlink(fmt.Sprintf("/proc/self/fd/%d", dir.Fd())); err != nil {
		return tree, "", "", err
	}
	for _, own := range table {
		if uint64(own.ID) != st.Mnt_id {
			continue
		}
		inside, err := filepath.Rel(own.Mountpoint, path)
		if err != nil {
			return tree, "", "", err
		}
		return mount.Filesystem{
			Major: own.Major,
			Minor: own.Minor,
			Root:  filepath.Join(own.Root, inside),
		}, path, own.FSType, nil
	}
	return tree, "", "", fmt.Errorf("the mount of %s is not in the mount table", path)
}
