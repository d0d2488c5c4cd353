package loop

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"strings"

	"github.com/google/uuid"

	"github.com/droverhq/drover/backends"
	"github.com/droverhq/drover/backends/loop/attach"
	"github.com/droverhq/drover/backends/loop/folder"
	"github.com/droverhq/drover/backends/loop/imagefile"
	"github.com/droverhq/drover/backends/loop/layout"
	"github.com/droverhq/drover/backends/loop/segments"
	"github.com/droverhq/drover/dataset"
	"github.com/droverhq/drover/internal/claims"
	"github.com/droverhq/drover/internal/linux/mkfs"
)

// imager implements backends.Imager for a pool.
type imager struct {
	dir      *poolDir
	layout   layout.Layout
	catalog  *catalog
	images   *imagefile.Images
	attacher *attach.Attacher
	backups  *claims.Claims // of the datasets whose segments are not released
	step     func(string)
}

var _ backends.Imager = (*Pool)(nil)

// Segments implements backends.Imager. Its cost depends on the number of extents of the image and on the changed
// segments.
func (m *imager) Segments(ctx context.Context, id, clone uuid.UUID) (backends.SegmentedImage, error) {
	var out backends.SegmentedImage
	release := m.backups.Use(id)
	err := m.catalog.withDataset(clone, func(dir folder.Dir) (err error) {
		out, err = m.update(ctx, dir, id)
		return err
	})
	if err != nil {
		release()
		return out, fmt.Errorf("divide the image of dataset %s into segments: %w", id, err)
	}
	out.Release = release
	return out, nil
}

// update brings the segments of a dataset up to date with the head in the directory of its clone.
func (m *imager) update(ctx context.Context, clone folder.Dir, id uuid.UUID) (out backends.SegmentedImage, err error) {
	root, err := m.dir.open()
	if err != nil {
		return out, err
	}
	defer root.Close()
	defer m.catalog.claims.Use(id)()
	if err := m.dir.room(root); err != nil {
		return out, err
	}
	size, err := m.images.SizeOf(clone, layout.Head)
	if err == nil && size.Encrypted {
		err = dataset.Errorf(dataset.ErrUnsupported, "it is encrypted")
	}
	if err != nil {
		return out, err
	}
	if out.Size, out.Filesystem = size.Size, size.FS; size.ImageFor(size.Size) < size.Image {
		out.Size = mkfs.Size(size.FS, dataset.Size(size.Image)) // the image has grown, and its record is older
	}
	image, err := clone.Open(m.layout.Image(layout.Head))
	if err != nil {
		return out, err
	}
	defer image.Close()
	info, err := image.Stat()
	if err != nil {
		return out, err
	}
	f, err := m.folder(root, id.String())
	if err != nil {
		return out, err
	}
	defer f.Close()
	out.Bytes, out.Dir = info.Size(), filepath.Join(m.dir.path, layout.Segments, id.String(), segments.Parts)
	out.Count, out.Changed, err = segments.NewFolder(f, m.step).Update(ctx, image)
	return out, err
}

// folder makes a folder for segments, if it does not exist, and opens it. The files in it inherit the attributes that
// the files of a dataset have, because only such files can share blocks with images.
func (m *imager) folder(root folder.Dir, name string) (*os.Root, error) {
	if err := root.Mkdir(layout.Segments); err != nil && !errors.Is(err, os.ErrExist) {
		return nil, err
	}
	top, err := root.Sub(layout.Segments)
	if err != nil {
		return nil, err
	}
	// Each time: a crash can have come between Mkdir and PrepareDir.
	if err := errors.Join(m.layout.PrepareDir(top), top.Close()); err != nil {
		return nil, err
	}
	name = path.Join(layout.Segments, name)
	if err := root.Mkdir(name); err != nil && !errors.Is(err, os.ErrExist) {
		return nil, err
	}
	dir, err := root.Sub(name)
	if err != nil {
		return nil, err
	}
	defer dir.Close()
	return os.OpenRoot(fmt.Sprintf("/proc/self/fd/%d", dir.FD()))
}

// DropSegments implements backends.Imager.
func (m *imager) DropSegments(_ context.Context, id uuid.UUID) error {
	root, err := m.dir.open()
	if err != nil {
		return err
	}
	defer root.Close()
	defer m.catalog.claims.Use(id)()
	return m.remove(root, id.String())
}

// remove removes a folder with segments. It may have files of a stranger, whose links are not followed.
func (m *imager) remove(root folder.Dir, name string) (err error) {
	top, err := root.Sub(layout.Segments)
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	defer top.Close()
	all, err := os.OpenRoot(fmt.Sprintf("/proc/self/fd/%d", top.FD()))
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, all.Close()) }()
	// Remove base first: if a crash interrupts RemoveAll, the next backup must not rely on the segments that are left.
	// RemoveAll reports what cannot be removed.
	_ = all.Remove(path.Join(name, segments.Base))
	m.step("segments.forgotten")
	return all.RemoveAll(name)
}

// ReapSegments implements backends.Imager.
func (m *imager) ReapSegments(ctx context.Context) (count int, err error) {
	root, err := m.dir.open()
	if err != nil {
		return 0, err
	}
	defer root.Close()
	entries, err := root.Entries(layout.Segments)
	if errors.Is(err, fs.ErrNotExist) {
		return 0, nil
	}
	for _, e := range entries {
		if ctx.Err() != nil {
			return count, errors.Join(err, context.Cause(ctx))
		}
		id, perr := layout.ParseID(e.Name())
		if perr != nil {
			continue // for example the folder of a build
		}
		removed, rerr := m.removeReleased(root, id)
		if removed {
			count++
		}
		err = errors.Join(err, rerr)
	}
	return count, err
}

// removeReleased removes the segments of a dataset, unless a backup reads them. Meanwhile only Segments of the dataset
// waits: a large image has many segments, and their removal must not delay a mount.
func (m *imager) removeReleased(root folder.Dir, id uuid.UUID) (removed bool, err error) {
	release, ok := m.backups.Reap(id)
	if !ok {
		return false, nil
	}
	defer release()
	err = m.remove(root, id.String())
	return err == nil, err
}

// buildSuffix ends the name of the folder with the segments of an image that is being built.
const buildSuffix = ".new"

// BuildImage implements backends.Imager.
func (m *imager) BuildImage(ctx context.Context, id uuid.UUID,
	write func(ctx context.Context, folder *os.File) (bytes int64, err error)) error {
	err := m.catalog.withDataset(id, func(dir folder.Dir) error { return m.build(ctx, dir, id, write) })
	if err != nil {
		return fmt.Errorf("build the image of dataset %s: %w", id, err)
	}
	return nil
}

// build does the work of BuildImage for the open directory of the dataset.
func (m *imager) build(ctx context.Context, dir folder.Dir, id uuid.UUID,
	write func(ctx context.Context, folder *os.File) (bytes int64, err error)) (err error) {
	root, err := m.dir.open()
	if err != nil {
		return err
	}
	defer root.Close()
	size, err := m.buildable(ctx, dir)
	if err != nil {
		return err
	}
	name := id.String() + buildSuffix
	if err := m.remove(root, name); err != nil {
		return err
	}
	f, err := m.folder(root, name)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, f.Close(), m.remove(root, name)) }()
	top, err := f.Open(".")
	if err != nil {
		return err
	}
	length, err := write(ctx, top)
	if err = errors.Join(err, top.Close()); err != nil {
		return err
	}
	// The image of an earlier version of Drover can be shorter: see package imagefile. mkfs.Size rounds down, so the
	// image can be longer than its size needs.
	longest := size.ImageFor(size.Size + dataset.MiB)
	if length < int64(size.Size) || length > longest || length%layout.Sector != 0 {
		return dataset.Errorf(dataset.ErrCorrupt, "a volume of %s has no image of %d bytes", size.Size.Readable(0),
			length)
	}
	m.step("build.written")
	image, err := dir.OpenFile(m.layout.Image(layout.Head), os.O_RDWR)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, image.Close()) }()
	if err := errors.Join(image.Truncate(0), image.Truncate(length)); err != nil {
		return err
	}
	m.step("build.emptied")
	if err := errors.Join(segments.Build(ctx, f, image), image.Sync()); err != nil {
		return err
	}
	m.step("build.shared")
	if err := m.checkFilesystem(dir, image, size.FS); err != nil {
		return err
	}
	return m.layout.Flush(dir)
}

// buildable returns the size of an incoming dataset whose image can be replaced.
func (m *imager) buildable(ctx context.Context, dir folder.Dir) (size imagefile.ItemSize, err error) {
	if err := errors.Join(m.attacher.CheckIdle(ctx, dir), m.dir.room(dir)); err != nil {
		return size, err
	}
	if filepath.Base(filepath.Dir(dir.Name())) != layout.Incoming {
		return size, dataset.Errorf(dataset.ErrConflict, "it is in use already")
	}
	if size, err = m.images.SizeOf(dir, layout.Head); err == nil && size.Encrypted {
		err = dataset.Errorf(dataset.ErrUnsupported, "it is encrypted")
	}
	return size, err
}

// checkFilesystem fails with dataset.ErrCorrupt unless the image of a dataset has the filesystem want, and one that may
// be mounted.
func (m *imager) checkFilesystem(dir folder.Dir, image *os.File, want string) error {
	got, _, err := m.images.Inspect(dir, layout.Head)
	switch {
	case err != nil:
		return err
	case got != want:
		return dataset.Errorf(dataset.ErrCorrupt, "the image has %s, and the volume %s", got, want)
	case got == mkfs.Ext4:
		return segments.CheckExt4(image)
	}
	return nil
}

// reap removes the segments of datasets that the pool does not have, or has only as copies, and the folders of
// interrupted builds. If the pool is nearly full, it removes the segments of all datasets, except those that a backup
// reads. They are only a cache, and keep the blocks of the last backup.
func (m *imager) reap(root folder.Dir) (count int, err error) {
	entries, err := root.Entries(layout.Segments)
	if errors.Is(err, fs.ErrNotExist) {
		return 0, nil
	}
	isFull := false
	if free, size, serr := layout.Space(root); serr != nil {
		err = errors.Join(err, serr)
	} else {
		isFull = backends.CheckRoom(m.dir.name, free, size) != nil
	}
	for _, e := range entries {
		name, building := strings.CutSuffix(e.Name(), buildSuffix)
		id, perr := layout.ParseID(name)
		if perr != nil {
			continue
		}
		release, ok := m.catalog.claims.Reap(id)
		if !ok {
			continue
		}
		if building || m.isAbsent(root, id) || isFull && m.isReleased(id) {
			if rerr := m.remove(root, e.Name()); rerr != nil {
				err = errors.Join(err, rerr)
			} else {
				count++
			}
		}
		release()
	}
	return count, err
}

// dropAllSegments removes the segments that a pool without datasets still has.
func (m *imager) dropAllSegments() error {
	root, err := m.dir.open()
	if err != nil {
		return err
	}
	defer root.Close()
	_, err = m.reap(root)
	return err
}

// isAbsent reports whether it is known that the pool does not have the head of a dataset. Another host backs up such a
// dataset.
func (m *imager) isAbsent(root folder.Dir, id uuid.UUID) bool {
	dir, place, err := m.catalog.findAny(root, id)
	if err == nil {
		_ = dir.Close()
	}
	return err == nil && place == layout.Copies || errors.Is(err, dataset.ErrNotFound)
}

// isReleased reports whether no backup reads the segments of a dataset. Segments cannot begin meanwhile, because the
// caller has claimed the dataset for the reaper: see update.
func (m *imager) isReleased(id uuid.UUID) bool {
	release, ok := m.backups.Reap(id)
	if ok {
		release()
	}
	return ok
}
