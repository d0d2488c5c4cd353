package loop

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/droverhq/drover/backends"
	"github.com/droverhq/drover/backends/loop/folder"
	"github.com/droverhq/drover/backends/loop/layout"
	"github.com/droverhq/drover/dataset"
)

var _ backends.Clearer = (*Pool)(nil)

// Clear implements backends.Clearer. It removes no images except that of the pool and the templates, and no directories
// except empty ones.
func (p *Pool) Clear(ctx context.Context) (remains string, err error) {
	entries, err := p.List(ctx)
	if err != nil {
		return "", err
	}
	if len(entries) > 0 {
		return "", dataset.Errorf(dataset.ErrConflict, "pool %s contains %s: it is not "+
			"removed", p.name, entries[0].Path)
	}
	if err := p.containers.DropAllUnused(); err != nil {
		return "", err
	}
	c := clearer{dir: p.dir, layout: p.layout, step: p.step}
	switch {
	case p.image != nil:
		return "", p.image.Clear(p.step)
	case p.disk != nil: // the identity stays on the disk, because it contains the generation that control has recorded
		return p.disk.Remains(Name), errors.Join(c.withEmptyPool(func(folder.Dir) error { return nil }), p.Close())
	}
	return "", c.withEmptyPool(c.removeIdentity)
}

// clearer removes the files and directories that were made together with a pool.
type clearer struct {
	dir    *poolDir
	layout layout.Layout
	step   func(string)
}

// withEmptyPool removes everything except the identity from an empty pool, and then calls the given function. If the
// removal fails, it recreates the removed directories.
func (c *clearer) withEmptyPool(then func(root folder.Dir) error) error {
	c.dir.identityMu.Lock()
	defer c.dir.identityMu.Unlock()
	root, err := c.dir.open()
	if err != nil {
		return err
	}
	defer root.Close()
	if err = c.removeDirectories(root); err == nil {
		c.step("clear.emptied")
		return then(root)
	}
	for _, name := range layout.Directories() {
		if mErr := root.Mkdir(name); mErr != nil && !errors.Is(mErr, os.ErrExist) {
			err = errors.Join(err, mErr)
		}
	}
	return errors.Join(err, c.layout.Prepare(root))
}

// removeIdentity removes the identity as the last file. As long as the identity exists, the directory is this pool, and
// the next Open makes the missing directories again.
func (c *clearer) removeIdentity(root folder.Dir) error {
	var id identity
	if err := layout.ReadRecord(root, layout.IdentityFile, &id); err != nil {
		return c.dir.offlineError("%w", err)
	}
	err := folder.AbsentIsFine(root.Remove(layout.IdentityFile + layout.TmpSuffix))
	if err := errors.Join(err, root.Remove(layout.IdentityFile)); err != nil {
		return err
	}
	c.step("clear.nameless")
	if err := root.Sync(); err != nil {
		return err
	}
	if id.Folder {
		if err := os.Remove(c.dir.path); err != nil && !errors.Is(err, unix.EBUSY) && !errors.Is(err, unix.ENOTEMPTY) {
			return err
		}
	}
	return folder.SyncDir(filepath.Dir(c.dir.path))
}

// removeDirectories removes everything but the identity. It fails with ErrConflict if something else is in the way.
func (c *clearer) removeDirectories(root folder.Dir) error {
	templates, err := root.Entries(layout.Templates)
	if err != nil {
		return err
	}
	for _, e := range templates {
		if name := strings.TrimSuffix(e.Name(), layout.TmpSuffix); strings.HasSuffix(name, layout.ImageSuffix) {
			if err := folder.AbsentIsFine(root.Remove(filepath.Join(layout.Templates, e.Name()))); err != nil {
				return err
			}
		}
	}
	for _, name := range layout.Directories() {
		err := folder.AbsentIsFine(root.Rmdir(name))
		if errors.Is(err, unix.ENOTEMPTY) {
			err = dataset.Errorf(dataset.ErrConflict, "pool %s contains data in %s: it is not removed", c.dir.name,
				root.Path(name))
		}
		if err != nil {
			return err
		}
		c.step("clear." + name)
	}
	entries, err := root.Entries(".")
	for _, e := range entries {
		if !strings.HasPrefix(e.Name(), layout.IdentityFile) {
			return dataset.Errorf(dataset.ErrConflict, "pool %s contains %s: it is not removed", c.dir.name,
				root.Path(e.Name()))
		}
	}
	return err
}
