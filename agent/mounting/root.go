package mounting

import (
	"context"
	"errors"
	"os"

	"github.com/google/uuid"
	"golang.org/x/sys/unix"

	"github.com/droverhq/drover/backends"
	"github.com/droverhq/drover/internal/linux/mount"
	"github.com/droverhq/drover/internal/tree"
)

// OpenRoot opens the root directory of OpenMount. The mount ends when the returned file is closed.
func OpenRoot(ctx context.Context, pool backends.Pool, id uuid.UUID) (*os.File, error) {
	m, err := OpenMount(ctx, pool, id)
	if err != nil {
		return nil, err
	}
	defer m.Close()
	return mount.Root(m)
}

// OpenMount mounts a dataset that is not mounted for use, for work on its files: no process can see the mount unless
// mount.InNamespace shows it. The mount follows no links, opens no devices and runs no programs. It ends when the
// returned file and those opened below it are closed.
func OpenMount(ctx context.Context, pool backends.Pool, id uuid.UUID) (*os.File, error) {
	return openMount(ctx, pool, id, false, tree.NoFollow, "nodev", "nosuid", "noexec", "nosymfollow")
}

// OpenTree mounts a dataset that is not mounted for use, for mount.InNamespace. Set-user-ID bits and device nodes in
// the mount have no effect. A read-only mount cannot be written to, and programs in it do not start. The filesystem
// itself may still replay its journal, as after a power cut.
func OpenTree(ctx context.Context, pool backends.Pool, id uuid.UUID, readOnly bool) (*os.File, error) {
	options := []string{"nosuid", "nodev"}
	if readOnly {
		options = append(options, "noexec")
	}
	flags := mount.BindFlags{ReadOnly: readOnly, NoDev: true, NoSUID: true, Inert: readOnly}
	bind := func(dir *os.File) (*os.File, error) { return mount.BindTree(dir, flags) }
	return openMount(ctx, pool, id, readOnly, bind, options...)
}

// openMount mounts a dataset without a mount point: by bind if it is a folder of its pool, and otherwise with further
// options.
func openMount(ctx context.Context, pool backends.Pool, id uuid.UUID, readOnly bool,
	bind func(dir *os.File) (*os.File, error), options ...string) (m *os.File, err error) {
	att, err := pool.Attach(ctx, id, backends.AttachOptions{})
	if err != nil {
		return nil, err
	}
	if att.Mount.FSType == bindType {
		var dir *os.File
		if dir, err = OpenDir(att.Mount.Source); err == nil {
			m, err = bind(dir)
			_ = dir.Close()
		}
	} else {
		s := mountSpec(att.Mount)
		s.ReadOnly, s.Options = s.ReadOnly || readOnly, append(s.Options, options...)
		m, err = mount.Tree(s)
		err = ExplainMountError(err)
	}
	if err = errors.Join(err, att.Release()); err != nil && m != nil {
		return nil, errors.Join(err, m.Close())
	}
	return m, err
}

// OpenDir opens a folder that is not a symbolic link.
func OpenDir(path string) (*os.File, error) {
	return os.OpenFile(path, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_NOFOLLOW, 0)
}
