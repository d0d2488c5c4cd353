package mounting

import (
	"context"
	"errors"
	"os"
	"slices"

	"github.com/google/uuid"
	"golang.org/x/sys/unix"

	"github.com/droverhq/drover/backends"
	"github.com/droverhq/drover/internal/linux/mount"
	"github.com/droverhq/drover/internal/tree"
)

// OpenRoot opens the root directory of OpenMount. The mount ends when the returned file is closed.
func OpenRoot(ctx context.Context, pool backends.Pool, id uuid.UUID, opts backends.AttachOptions) (*os.File, error) {
	m, err := OpenMount(ctx, pool, id, opts)
	if err != nil {
		return nil, err
	}
	defer m.Close()
	return mount.Root(m)
}

// OpenMount mounts a dataset that is not mounted for use, for work on its files: no process can see the mount unless
// mount.InNamespace shows it. The mount follows no links, opens no devices and runs no programs. It ends when the
// returned file and those opened below it are closed.
func OpenMount(ctx context.Context, pool backends.Pool, id uuid.UUID, opts backends.AttachOptions) (*os.File, error) {
	att, err := pool.Attach(ctx, id, opts)
	if err != nil {
		return nil, err
	}
	var m *os.File
	if att.Mount.FSType == bindType {
		var dir *os.File
		if dir, err = OpenDir(att.Mount.Source); err == nil {
			m, err = tree.NoFollow(dir)
			_ = dir.Close()
		}
	} else {
		spec := mountSpec(att.Mount)
		spec.Options = append(slices.Clone(spec.Options), "nodev", "nosuid", "noexec", "nosymfollow")
		m, err = mount.Tree(spec)
	}
	if rerr := att.Release(); rerr != nil || err != nil {
		if m != nil {
			rerr = errors.Join(rerr, m.Close())
		}
		return nil, errors.Join(err, rerr)
	}
	return m, nil
}

// OpenDir opens a folder that is not a symbolic link.
func OpenDir(path string) (*os.File, error) {
	return os.OpenFile(path, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_NOFOLLOW, 0)
}
