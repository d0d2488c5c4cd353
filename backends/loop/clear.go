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

// Clear implements backends.Clearer. Of images none is removed but the pool's own and the
// templates, of folders none that holds anything.
func (p *Pool) Clear(ctx context.Context) (left string, err error) {
	entries, err := p.List(ctx)
	if err != nil {
		return "", err
	}
	if len(entries) > 0 {
		return "", dataset.Errorf(dataset.ErrConflict, "pool %s holds %s: it is not removed", p.name, entries[0].Path)
	}
	if err := p.settled(); err != nil {
		return "", err
	}
	switch {
	case p.image != nil:
		return "", p.image.clear(p.step)
	case p.disk != nil: // which its identity stays on: the generation that control knows with it
		return p.disk.Left(Name), errors.Join(p.emptied(func(folder.Dir) error { return nil }), p.Close())
	}
	return "", p.emptied(p.clearFolder)
}

// emptied goes on with a pool of which nothing is left but its identity. It is as it was when that
// fails.
func (p *Pool) emptied(then func(root folder.Dir) error) error {
	p.raising.Lock()
	defer p.raising.Unlock()
	root, err := p.open()
	if err != nil {
		return err
	}
	defer root.Close()
	if err = p.clearAreas(root); err == nil {
		p.step("clear.emptied")
		return then(root)
	}
	for _, name := range []string{layout.Incoming, layout.Datasets, layout.Copies, layout.Deleting, layout.Templates} {
		if mErr := root.Mkdir(name); mErr != nil && !errors.Is(mErr, os.ErrExist) {
			err = errors.Join(err, mErr)
		}
	}
	return errors.Join(err, p.layout.Prepare(root))
}

// clearFolder removes the identity, the last there is: until then it is this pool, whose next
// opening makes the folders.
func (p *Pool) clearFolder(root folder.Dir) error {
	var id identity
	if err := layout.ReadRecord(root, layout.IdentityFile, &id); err != nil {
		return p.offline("%w", err)
	}
	err := folder.AbsentIsFine(root.Remove(layout.IdentityFile + layout.TmpSuffix))
	if err := errors.Join(err, root.Remove(layout.IdentityFile)); err != nil {
		return err
	}
	p.step("clear.nameless")
	if err := root.Sync(); err != nil {
		return err
	}
	if id.Folder {
		if err := os.Remove(p.path); err != nil && !errors.Is(err, unix.EBUSY) && !errors.Is(err, unix.ENOTEMPTY) {
			return err
		}
	}
	return folder.SyncDir(filepath.Dir(p.path))
}

// clearAreas removes all but the identity. ErrConflict: something is in the way.
func (p *Pool) clearAreas(root folder.Dir) error {
	made, err := root.Entries(layout.Templates)
	if err != nil {
		return err
	}
	for _, e := range made {
		if name := strings.TrimSuffix(e.Name(), layout.TmpSuffix); strings.HasSuffix(name, layout.ImageSuffix) {
			if err := folder.AbsentIsFine(root.Remove(filepath.Join(layout.Templates, e.Name()))); err != nil {
				return err
			}
		}
	}
	for _, name := range []string{layout.Incoming, layout.Datasets, layout.Copies, layout.Deleting, layout.Templates} {
		err := folder.AbsentIsFine(root.Rmdir(name))
		if errors.Is(err, unix.ENOTEMPTY) {
			err = dataset.Errorf(dataset.ErrConflict, "pool %s holds something in %s: it is not removed", p.name,
				root.Path(name))
		}
		if err != nil {
			return err
		}
		p.step("clear." + name)
	}
	left, err := root.Entries(".")
	for _, e := range left {
		if !strings.HasPrefix(e.Name(), layout.IdentityFile) {
			return dataset.Errorf(dataset.ErrConflict, "pool %s holds %s: it is not removed", p.name,
				root.Path(e.Name()))
		}
	}
	return err
}

// clear unmounts a pool's image, and removes the file. ErrInUse: it is mounted still; ErrOffline:
// its name is another file's by now, which may hold anything.
func (img *poolImage) clear(step func(string)) error {
	var was, is os.FileInfo
	on, err := img.mounted()
	switch {
	case err == nil && on != "":
		was, err = os.Lstat(img.file)
	case err == nil:
		err = dataset.Errorf(dataset.ErrOffline, "%s is mounted no more", img.file)
	}
	if err = errors.Join(folder.AbsentIsFine(err), img.close()); err != nil {
		return err
	}
	if on, err = img.mounted(); folder.AbsentIsFine(err) != nil {
		return err
	}
	if on != "" {
		return dataset.Errorf(dataset.ErrInUse, "%s is in use still (fuser -vm %s shows by what)", img.mount, img.mount)
	}
	step("clear.unmounted")
	if is, err = os.Lstat(img.file); err == nil && !os.SameFile(was, is) {
		return dataset.Errorf(dataset.ErrOffline, "%s is another file than was mounted: it was left as it is", img.file)
	}
	if err := folder.AbsentIsFine(os.Remove(img.file)); err != nil {
		return err
	}
	step("clear.removed")
	return errors.Join(folder.AbsentIsFine(os.Remove(img.mount)), folder.SyncDir(filepath.Dir(img.file)))
}
