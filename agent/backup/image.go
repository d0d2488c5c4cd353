package backup

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"github.com/google/uuid"
	"golang.org/x/sys/unix"

	"github.com/droverhq/drover/backends"
	"github.com/droverhq/drover/dataset"
	"github.com/droverhq/drover/internal/linux/mount"
	"github.com/droverhq/drover/internal/restic"
)

// modeOf returns what the backup of an operation reads: BackupImage, or nothing for the files of the volume. A push
// always reads files, so that it can be pulled to any pool.
func modeOf(op dataset.Operation, d dataset.Dataset) dataset.BackupMode {
	if op.Push == nil && d.Profile.Backup.Mode == dataset.BackupImage {
		return dataset.BackupImage
	}
	return ""
}

// present makes the clone of an operation visible in the folder that restic reads. It returns the name of the top
// folder, and the description of the image, or nil if the folder has the files. The caller releases the image.
func (c *Creator) present(ctx context.Context, op dataset.Operation, d dataset.Dataset, pool backends.Pool,
	clone uuid.UUID) (name string, image *Image, err error) {
	dir := c.folder(d.ID)
	if modeOf(op, d) != dataset.BackupImage {
		if d.Profile.Backup.Mode != dataset.BackupImage { // it can have had another profile
			c.dropSegments(ctx, op, pool)
		}
		return DataName, nil, c.deps.Mount(ctx, pool, clone, filepath.Join(dir, DataName))
	}
	imager, ok := pool.(backends.Imager)
	if !ok {
		return "", nil, dataset.Errorf(dataset.ErrUnsupported, "its profile has mode: image, and its pool has no "+
			"images (choose a profile with mode: files: drover volume set-profile %s PROFILE)", op.Volume)
	}
	segments, err := imager.Segments(ctx, d.ID, clone)
	if err != nil {
		return "", nil, err
	}
	path := filepath.Join(dir, ImageName)
	err = os.MkdirAll(path, 0o700)
	if err == nil {
		err = bindReadOnly(segments.Dir, path)
	}
	if err != nil {
		segments.Release()
		return "", nil, err
	}
	return ImageName, &Image{
		Bytes: segments.Bytes, SegmentSize: backends.SegmentSize, Segments: segments.Count,
		size: segments.Size, filesystem: segments.Filesystem, release: segments.Release,
	}, nil
}

// dropSegments removes the segments of the dataset of an operation, if its pool has some. They keep the blocks of their
// image.
func (c *Creator) dropSegments(ctx context.Context, op dataset.Operation, pool backends.Pool) {
	if imager, ok := pool.(backends.Imager); ok {
		if err := imager.DropSegments(ctx, op.DatasetID); err != nil {
			c.logOf(ctx, op).WithError(err).Warn("cannot remove the segments of an image")
		}
	}
}

// bindReadOnly makes a folder visible at another path.
func bindReadOnly(folder, path string) (err error) {
	source, err := os.OpenFile(folder, os.O_RDONLY|unix.O_DIRECTORY|unix.O_NOFOLLOW, 0)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, source.Close()) }()
	return mount.Bind(source, path, mount.BindFlags{ReadOnly: true, NoDev: true, Inert: true})
}

// end releases the segments after the backup. It does nothing for a backup of files.
func (i *Image) end() {
	if i != nil {
		i.release()
	}
}

// checkStored fails if restic has stored another number of files than the segments of the image and the record: then
// somebody changed the folder with the segments, or the volume was purged meanwhile. A backup of files has nothing to
// check.
func (i *Image) checkStored(s restic.Summary) error {
	if i == nil || s.Files == i.Segments+1 {
		return nil
	}
	return dataset.Errorf(dataset.ErrConflict, "its image has %d segments, and restic has stored %d (try again)",
		i.Segments, s.Files-1)
}

// checkTarget fails if the image of a backup cannot become that of a dataset.
func (i *Image) checkTarget(id string, r Record, d dataset.Dataset) error {
	switch {
	case i.SegmentSize != backends.SegmentSize:
		return dataset.Errorf(dataset.ErrUnsupported, "backup %s has segments of %d bytes, and this drover "+
			"restores segments of %d: upgrade this drover", short(id), i.SegmentSize, backends.SegmentSize)
	case d.Encryption != nil:
		return dataset.Errorf(dataset.ErrUnsupported, "backup %s has an image that is not encrypted, and the new "+
			"volume would be (restore it with a profile without encryption, then: drover volume set-profile)",
			short(id))
	case d.Profile.Filesystem.Type != r.Filesystem:
		return dataset.Errorf(dataset.ErrUnsupported, "backup %s has an image with %s, and the new volume would have "+
			"%s (restore it with -o fs=%[2]s)", short(id), r.Filesystem, d.Profile.Filesystem.Type)
	case d.Size != r.Size:
		return dataset.Errorf(dataset.ErrUnsupported, "backup %s has the image of a volume of %s, and the new volume "+
			"would have %s (restore it with -o size=%s, then: drover volume resize)", short(id), r.Size.Readable(0),
			d.Size.Readable(0), r.Size)
	}
	return nil
}

// checkSegments fails with dataset.ErrCorrupt if a folder does not have as many segments as the record says.
func (i *Image) checkSegments(id string, folder *os.File) error {
	var got int64
	groups, err := readNames(folder, ".")
	for _, group := range groups {
		names, gerr := readNames(folder, group)
		got, err = got+int64(len(names)), errors.Join(err, gerr)
	}
	if err == nil && got != i.Segments {
		err = dataset.Errorf(dataset.ErrCorrupt, "the image in backup %s has %d segments, and %d of them were restored",
			short(id), i.Segments, got)
	}
	return err
}

// readNames returns the names in a folder below another one.
func readNames(folder *os.File, name string) (names []string, err error) {
	fd, err := unix.Openat(int(folder.Fd()), name, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("read the restored segments: %w", err)
	}
	f := os.NewFile(uintptr(fd), name)
	names, err = f.Readdirnames(-1)
	return names, errors.Join(err, f.Close())
}
