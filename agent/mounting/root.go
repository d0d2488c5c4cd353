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

// OpenRoot opens the root of a dataset that is not mounted for use, through a mount that no other process can
// see. The mount follows no links, opens no devices and runs no programs. It ends when the returned file is closed.
func OpenRoot(ctx context.Context, pool backends.Pool, id uuid.UUID, opts backends.AttachOptions) (*os.File, error) {
	att, err := pool.Attach(ctx, id, opts)
	if err != nil {
		return nil, err
	}
	var root *os.File
	if att.Mount.FSType == bindType {
		var dir *os.File
		if dir, err = OpenDir(att.Mount.Source); err == nil {
			root, err = tree.NoFollow(dir)
			_ = dir.Close()
		}
	} else {
		spec := mountSpec(att.Mount)
		spec.Options = append(slices.Clone(spec.Options), "nodev", "nosuid", "noexec", "nosymfollow")
		root, err = mount.Detached(spec)
	}
	if rerr := att.Release(); rerr != nil || err != nil {
		if root != nil {
			rerr = errors.Join(rerr, root.Close())
		}
		return nil, errors.Join(err, rerr)
	}
	return root, nil
}

// OpenDir opens a folder that is not a symbolic link.
func OpenDir(path string) (*os.File, error) {
	return os.OpenFile(path, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_NOFOLLOW, 0)
}
