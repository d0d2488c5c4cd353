package mounting

import (
	"context"
	"errors"
	"os"
	"slices"

	"github.com/google/uuid"

	"github.com/droverhq/drover/backends"
	"github.com/droverhq/drover/internal/linux/mount"
)

// MountPrivate mounts a dataset that is not mounted for use on path, for a program that reads it. The mount is
// read-only, and programs, set-user-ID bits and device nodes in it have no effect. The filesystem itself may still
// replay its journal, as after a power cut.
func MountPrivate(ctx context.Context, pool backends.Pool, id uuid.UUID, path string) error {
	att, err := pool.Attach(ctx, id, backends.AttachOptions{})
	if err != nil {
		return err
	}
	if att.Mount.FSType == bindType {
		err = bindOn(att.Mount, path, mount.BindFlags{ReadOnly: true, NoDev: true, Inert: true})
	} else {
		s := mountSpec(att.Mount)
		s.ReadOnly, s.Options = true, append(slices.Clone(s.Options), "nosuid", "nodev", "noexec")
		err = mount.Mount(path, s)
	}
	if err != nil {
		return errors.Join(ExplainMountError(err), att.Release())
	}
	if err := att.Release(); err != nil {
		return errors.Join(err, mount.Unmount(path))
	}
	return nil
}

// OpenTree mounts a dataset that is not mounted for use, for mount.InNamespace. The mount can be written to, but
// set-user-ID bits and device nodes in it have no effect.
func OpenTree(ctx context.Context, pool backends.Pool, id uuid.UUID) (tree *os.File, err error) {
	att, err := pool.Attach(ctx, id, backends.AttachOptions{})
	if err != nil {
		return nil, err
	}
	if att.Mount.FSType == bindType {
		var dir *os.File
		if dir, err = OpenDir(att.Mount.Source); err == nil {
			tree, err = mount.BindTree(dir, mount.BindFlags{NoDev: true, NoSUID: true})
			err = errors.Join(err, dir.Close())
		}
	} else {
		s := mountSpec(att.Mount)
		s.Options = append(slices.Clone(s.Options), "nosuid", "nodev")
		tree, err = mount.Tree(s)
		err = ExplainMountError(err)
	}
	if err = errors.Join(err, att.Release()); err != nil && tree != nil {
		err = errors.Join(err, tree.Close())
	}
	return tree, err
}
