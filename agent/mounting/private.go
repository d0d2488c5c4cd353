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

// OpenTree mounts a dataset that is not mounted for use, for mount.InNamespace. Set-user-ID bits and device nodes in
// the mount have no effect. A read-only mount cannot be written to, and programs in it do not start. The filesystem
// itself may still replay its journal, as after a power cut.
func OpenTree(ctx context.Context, pool backends.Pool, id uuid.UUID, readOnly bool) (tree *os.File, err error) {
	att, err := pool.Attach(ctx, id, backends.AttachOptions{})
	if err != nil {
		return nil, err
	}
	if att.Mount.FSType == bindType {
		var dir *os.File
		if dir, err = OpenDir(att.Mount.Source); err == nil {
			tree, err = mount.BindTree(dir, mount.BindFlags{
				ReadOnly: readOnly, NoDev: true, NoSUID: true, Inert: readOnly,
			})
			err = errors.Join(err, dir.Close())
		}
	} else {
		s := mountSpec(att.Mount)
		s.Options = append(slices.Clone(s.Options), "nosuid", "nodev")
		if readOnly {
			s.ReadOnly, s.Options = true, append(s.Options, "noexec")
		}
		tree, err = mount.Tree(s)
		err = ExplainMountError(err)
	}
	if err = errors.Join(err, att.Release()); err != nil && tree != nil {
		err = errors.Join(err, tree.Close())
	}
	return tree, err
}
