package bindmount

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"

	"github.com/google/uuid"
	"golang.org/x/sys/unix"

	"github.com/droverhq/drover/internal/linux/inuse"
	"github.com/droverhq/drover/internal/linux/mount"
)

// use is a use of a directory. The zero value means that nothing uses it.
type use struct {
	point  string      // the mount point in this mount namespace
	unsure bool        // another directory of the share may be mounted at point
	user   *inuse.User // a process that has it mounted in another mount namespace, or has it open
}

// rootsOf returns the roots of a directory of a share and of the directories in it. The root of a directory is the
// value of mount.Entry.Root for a mount of that directory.
func rootsOf(dir *os.File) (map[string]bool, error) {
	entries, err := dir.ReadDir(-1)
	if err != nil {
		return nil, err
	}
	self, err := dir.Stat()
	if err != nil {
		return nil, err
	}
	roots := map[string]bool{rootOf(self): true}
	for _, e := range entries {
		if !e.IsDir() {
			continue
		}
		info, err := e.Info()
		switch {
		case err == nil:
			roots[rootOf(info)] = true
		case !errors.Is(err, fs.ErrNotExist):
			return nil, err
		}
	}
	return roots, nil
}

// useOfShare returns a use among the mounts of a share: a mount whose root is one of roots. It also returns a mount
// whose root is unknown, because that root may be one of them.
func useOfShare(roots map[string]bool, mounts mount.Mounts) (at use) {
	for _, m := range mounts {
		if roots[m.Root] {
			return use{point: m.Mountpoint}
		}
		if mount.HasUnknownRoot(m) {
			at = use{point: m.Mountpoint, unsure: true}
		}
	}
	return at
}

// rootOf returns the root of a directory of a share (see rootsOf).
func rootOf(dir os.FileInfo) string {
	st, ok := dir.Sys().(*syscall.Stat_t)
	if !ok {
		return ""
	}
	return mount.RootOf(st.Ino)
}

// findUse returns a use of a directory: a mount of the directory or of something below it, a mount below it, or an
// open file in it (see inuse.FindOpenFiles). It examines this mount namespace first, then all others, and last the open
// files of all processes. It recognizes a bind mount by its root: the path in its filesystem, as the mount table shows
// it (proc_pid_mountinfo(5)).
func (t *Tracker) findUse(ctx context.Context, id uuid.UUID, folder string) (at use, err error) {
	dir, err := os.Open(folder)
	if err != nil {
		return at, err
	}
	defer dir.Close()
	table, err := mount.Table()
	if err != nil {
		return at, err
	}
	tree, path, kind, err := locate(dir, table)
	if err != nil {
		return at, err
	}
	roots := map[string]bool{tree.Root: true}
	if strings.HasPrefix(kind, "nfs") {
		if roots, err = rootsOf(dir); err != nil {
			return at, err
		}
	}
	if at = useHere(table, tree, path, kind, roots); at.point != "" {
		return at, nil
	}
	elsewhere := t.elsewhere
	if elsewhere == nil {
		elsewhere = mount.ReadForeign
	}
	others, err := elsewhere()
	if err != nil {
		return at, err
	}
	own := ""
	if t.MountPath != nil {
		own = t.MountPath(id)
	}
	inPool := tree
	for tree.Root = range roots {
		_, users := others.Copies(tree, own)
		users = append(users, others.Holders(tree, own)...)
		if len(users) > 0 {
			return use{user: inuse.MountUser(users[0])}, nil
		}
	}
	roots[inPool.Root] = true // a file may also have been opened through the pool's own mount of the share
	return t.findOpener(ctx, tree, roots)
}

// findOpener returns a process that has something open in one of the directories with these roots. The directories are
// on the filesystem of tree, whose Root is not used.
func (t *Tracker) findOpener(ctx context.Context, tree mount.Filesystem, roots map[string]bool) (at use, err error) {
	var trees []mount.Filesystem
	for tree.Root = range roots {
		trees = append(trees, tree)
	}
	open := t.files
	if open == nil {
		open = inuse.FindOpenFiles
	}
	files, err := open(ctx, trees)
	if err != nil {
		return at, err
	}
	for _, tree := range trees {
		if list := files.Openers(tree, nil); len(list) > 0 {
			return use{user: inuse.FileUser(list[0])}, nil
		}
	}
	return at, nil
}

// useHere does the part of findUse for this mount namespace.
func useHere(table mount.Mounts, tree mount.Filesystem, path, kind string, roots map[string]bool) use {
	if below := table.Under(path); len(below) > 0 {
		return use{point: below[0].Mountpoint}
	}
	mounts := table.Of(tree.Major, tree.Minor)
	if strings.HasPrefix(kind, "nfs") {
		return useOfShare(roots, mounts)
	}
	for _, m := range mounts {
		if m.Root == tree.Root || strings.HasPrefix(m.Root, tree.Root+"/") {
			return use{point: m.Mountpoint}
		}
	}
	return use{}
}

// locate identifies an open directory. tree is its filesystem, with the directory as Root; path is the path of the
// directory, and kind is the type of the filesystem.
func locate(dir *os.File, table mount.Mounts) (tree mount.Filesystem, path, kind string, err error) {
	var st unix.Statx_t
	if err := unix.Statx(int(dir.Fd()), "", unix.AT_EMPTY_PATH, unix.STATX_MNT_ID, &st); err != nil {
		return tree, "", "", err
	}
	if path, err = os.Readlink(fmt.Sprintf("/proc/self/fd/%d", dir.Fd())); err != nil {
		return tree, "", "", err
	}
	for _, entry := range table {
		if uint64(entry.ID) != st.Mnt_id {
			continue
		}
		rel, err := filepath.Rel(entry.Mountpoint, path)
		if err != nil {
			return tree, "", "", err
		}
		return mount.Filesystem{
			Major: entry.Major,
			Minor: entry.Minor,
			Root:  filepath.Join(entry.Root, rel),
		}, path, entry.FSType, nil
	}
	return tree, "", "", fmt.Errorf("the mount of %s is not in the mount table", path)
}
