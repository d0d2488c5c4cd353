package loop

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/droverhq/drover/backends"
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
		return p.disk.Left(Name), errors.Join(p.emptied(func(folder) error { return nil }), p.Close())
	}
	return "", p.emptied(p.clearFolder)
}

// emptied goes on with a pool of which nothing is left but its identity. It is as it was when that
// fails.
func (p *Pool) emptied(then func(root folder) error) error {
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
	for _, name := range []string{incoming, datasets, copies, deleting, templates} {
		if mErr := root.mkdir(name); mErr != nil && !errors.Is(mErr, os.ErrExist) {
			err = errors.Join(err, mErr)
		}
	}
	return errors.Join(err, p.layout.prepare(root))
}

// clearFolder removes the identity, the last there is: until then it is this pool, whose next
// opening makes the folders.
func (p *Pool) clearFolder(root folder) error {
	var id identity
	if err := readRecord(root, identityFile, &id); err != nil {
		return p.offline("%w", err)
	}
	if err := errors.Join(absentIsFine(root.remove(identityFile+tmpSuffix)), root.remove(identityFile)); err != nil {
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
	return syncDir(filepath.Dir(p.path))
}

// clearAreas removes all but the identity. ErrConflict: something is in the way.
func (p *Pool) clearAreas(root folder) error {
	made, err := root.entries(templates)
	if err != nil {
		return err
	}
	for _, e := range made {
		if name := strings.TrimSuffix(e.Name(), tmpSuffix); strings.HasSuffix(name, imageSuffix) {
			if err := absentIsFine(root.remove(filepath.Join(templates, e.Name()))); err != nil {
				return err
			}
		}
	}
	for _, name := range []string{incoming, datasets, copies, deleting, templates} {
		err := absentIsFine(root.rmdir(name))
		if errors.Is(err, unix.ENOTEMPTY) {
			err = dataset.Errorf(dataset.ErrConflict, "pool %s holds something in %s: it is not removed", p.name,
				root.path(name))
		}
		if err != nil {
			return err
		}
		p.step("clear." + name)
	}
	left, err := root.entries(".")
	for _, e := range left {
		if !strings.HasPrefix(e.Name(), identityFile) {
			return dataset.Errorf(dataset.ErrConflict, "pool %s holds %s: it is not removed", p.name,
				root.path(e.Name()))
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
	if err = errors.Join(absentIsFine(err), img.close()); err != nil {
		return err
	}
	if on, err = img.mounted(); absentIsFine(err) != nil {
		return err
	}
	if on != "" {
		return dataset.Errorf(dataset.ErrInUse, "%s is in use still (fuser -vm %s shows by what)", img.mount, img.mount)
	}
	step("clear.unmounted")
	if is, err = os.Lstat(img.file); err == nil && !os.SameFile(was, is) {
		return dataset.Errorf(dataset.ErrOffline, "%s is another file than was mounted: it was left as it is", img.file)
	}
	if err := absentIsFine(os.Remove(img.file)); err != nil {
		return err
	}
	step("clear.removed")
	return errors.Join(absentIsFine(os.Remove(img.mount)), syncDir(filepath.Dir(img.file)))
}
