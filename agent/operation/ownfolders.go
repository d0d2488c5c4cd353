package operation

import (
	"context"
	"fmt"
	"os"
	"path/filepath"

	"github.com/droverhq/drover/agent/pool"
	"github.com/droverhq/drover/dataset"
	"github.com/droverhq/drover/internal/linux/mount"
)

// checkImportable fails with ErrInvalid if an import must not read a folder, because the folder contains a pool or
// the agent's root, or is inside one. An import of a folder that contains the pool would copy its own data until the
// disk is full, including the reserve of the pool. The files inside a pool belong to other volumes, or are records of
// its backend.
//
// src is the open folder. Its path is read from the kernel, so neither a symbolic link nor a rename after the folder
// was opened can hide which folder it is. Folders are compared by path, and also by filesystem and the path in that
// filesystem, so a bind mount of a folder is found as well. If an NFS share is mounted twice, from different folders of
// its server, the two mounts look like two different shares.
//
// checkImportable also fails with ErrInvalid if something is mounted in the folder. A copy of the folder would lack the
// files of that mount. A user who then removed the folder would lose them.
func (i *Importer) checkImportable(ctx context.Context, src *os.File) error {
	path, err := os.Readlink(fmt.Sprintf("/proc/self/fd/%d", src.Fd()))
	if err != nil {
		return fmt.Errorf("locate %s: %w", src.Name(), err)
	}
	table, err := mount.Table()
	if err != nil {
		return err
	}
	for _, own := range i.ownFolders(ctx) {
		switch {
		case contains(table, path, own.path):
			return dataset.Errorf(dataset.ErrInvalid, "%s is inside %s (import folders of it, one at a time)",
				own.what, path)
		case contains(table, own.path, path):
			return dataset.Errorf(dataset.ErrInvalid,
				"%s is inside %s, which belongs to Drover (drover clone copies a volume; a tar archive of the "+
					"folder can be imported with --from -)", path, own.what)
		}
	}
	for _, m := range table.Under(path) {
		if m.Mountpoint != path {
			return dataset.Errorf(dataset.ErrInvalid,
				"%s is a separate mount, which a copy of %s would lack (unmount it, or import each one "+
					"separately)", m.Mountpoint, path)
		}
	}
	return nil
}

// ownFolder is a folder, or an image file, that only Drover uses.
type ownFolder struct{ what, path string }

// ownFolders lists the places of all pools, and the agent's root: by the recorded path and, if its disk answers,
// by the path without symbolic links.
func (i *Importer) ownFolders(ctx context.Context) (all []ownFolder) {
	for _, o := range i.Pools.All() {
		for _, path := range o.Record.Paths() {
			what := fmt.Sprintf("pool %s (at %s)", o.Name, path)
			all = append(all, ownFolder{what, path})
			if pool.PathAnswers(ctx, i.Clock, path) != nil { // an import that reads from this disk hangs as well
				continue
			}
			if resolved, err := filepath.EvalSymlinks(path); err == nil && resolved != path {
				all = append(all, ownFolder{what, resolved})
			}
		}
	}
	return append(all, ownFolder{"the folder " + i.Root, i.Root})
}

// contains reports whether path is dir or is inside it, by their paths or by their positions in one filesystem.
func contains(table mount.Mounts, dir, path string) bool {
	if pool.IsWithin(path, dir) {
		return true
	}
	outer, known := table.Place(dir)
	inner, also := table.Place(path)
	return known && also && inner.Within(outer)
}
