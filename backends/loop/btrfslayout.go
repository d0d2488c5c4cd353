package loop

import (
	"errors"
	"os"
	"path"

	"github.com/droverhq/drover/backends/shelf"
	"github.com/droverhq/drover/internal/linux/btrfsctl"
	"github.com/droverhq/drover/internal/linux/reflink"
	"github.com/droverhq/drover/internal/safefile"
)

// btrfsLayout keeps each item as a NOCOW image in a separate subvolume.
type btrfsLayout struct {
	commits btrfsctl.Commits
}

const btrfsImage = "image"

// Prepare sets the attribute NOCOW on the directories whose files inherit it: those of templates, and those of
// datasets, for their records. Only NOCOW files can share blocks with NOCOW images, and on a mount that compresses,
// direct I/O works only on NOCOW files. Subvolumes do not inherit the attribute.
func (*btrfsLayout) Prepare(root safefile.Dir) error {
	for _, name := range []string{shelf.Incoming, shelf.Datasets, shelf.Copies, templatesDir} {
		dir, err := root.Sub(name)
		if err != nil {
			return err
		}
		if err := errors.Join(btrfsctl.SetNOCOW(dir.File), dir.Close()); err != nil {
			return err
		}
	}
	return nil
}

// PrepareDir sets the attribute NOCOW, for the reason that Prepare gives.
func (*btrfsLayout) PrepareDir(dir safefile.Dir) error { return btrfsctl.SetNOCOW(dir.File) }

// Note implements Layout.
func (*btrfsLayout) Note() string {
	return "btrfs: each image NOCOW in a separate subvolume, constant-time snapshots regardless of fragmentation"
}

// Image implements Layout.
func (*btrfsLayout) Image(item string) string { return path.Join(item, btrfsImage) }

// Create implements Layout.
func (l *btrfsLayout) Create(dir safefile.Dir, item string) (*os.File, error) {
	if err := btrfsctl.Create(dir.File, item); err != nil {
		return nil, err
	}
	f, err := dir.OpenFile(l.Image(item), os.O_CREATE|os.O_EXCL|os.O_RDWR)
	if err != nil {
		return nil, err
	}
	if err := btrfsctl.SetNOCOW(f); err != nil {
		_ = f.Close()
		return nil, err
	}
	return f, nil
}

// Clone is durable: the commit of the current transaction makes the snapshot (create_snapshot in fs/btrfs/ioctl.c), and
// all earlier changes are part of this transaction or an earlier one.
func (*btrfsLayout) Clone(
	dir safefile.Dir,
	item string,
	srcDir safefile.Dir,
	src string,
	readOnly bool,
) (durable bool, err error) {
	from, err := srcDir.Sub(src)
	if err != nil {
		return false, err
	}
	defer from.Close()
	err = btrfsctl.Snapshot(dir.File, item, from.File, readOnly)
	return err == nil, err
}

// Costly implements Layout.
func (*btrfsLayout) Costly() bool { return false }

// Rename implements Layout.
func (*btrfsLayout) Rename(dir safefile.Dir, item, to string) error { return dir.Rename(item, to) }

// Replace exchanges the two items, so that there is no moment without the item.
func (*btrfsLayout) Replace(dir safefile.Dir, item, replacement string) error {
	return dir.Exchange(replacement, item)
}

// Swap implements Layout.
func (*btrfsLayout) Swap(dir safefile.Dir, a, b string) error { return dir.Exchange(a, b) }

// Protect implements Layout.
func (*btrfsLayout) Protect(dir safefile.Dir, item string) error {
	sub, err := dir.Sub(item)
	if err != nil {
		return err
	}
	return errors.Join(btrfsctl.SetReadOnly(sub.File), sub.Close())
}

// Seal clones the item, because every snapshot is read-only.
func (l *btrfsLayout) Seal(dir safefile.Dir, item, to string) (durable bool, err error) {
	if durable, err = l.Clone(dir, to, dir, item, true); err != nil {
		return false, err
	}
	return durable, l.Remove(dir, item)
}

// Remove implements Layout.
func (*btrfsLayout) Remove(dir safefile.Dir, item string) error {
	return safefile.AbsentIsFine(btrfsctl.Delete(dir.File, item))
}

// Settle waits for the ordered extents of the file, which btrfs adds to the file after the write has returned.
// Reading the extent map waits for them (btrfs_fiemap) and flushes nothing.
func (*btrfsLayout) Settle(f *os.File) error {
	_, err := reflink.Extents(f)
	return err
}

// Flush commits the running transaction. Concurrent callers share one commit.
func (l *btrfsLayout) Flush(dir safefile.Dir) error {
	return l.commits.Wait(func() error { return btrfsctl.Commit(dir.File) })
}

// Item implements Layout.
func (*btrfsLayout) Item(name string) (string, bool) { return name, isItem(name) }
