package layout

import (
	"errors"
	"os"
	"path"

	"github.com/droverhq/drover/backends/loop/folder"
	"github.com/droverhq/drover/internal/linux/btrfsctl"
	"github.com/droverhq/drover/internal/linux/reflink"
)

// Btrfs keeps each item as a NOCOW image in a separate subvolume.
type Btrfs struct {
	commits btrfsctl.Commits
}

const btrfsImage = "image"

// Prepare sets the attribute NOCOW on the directories whose files inherit it: those of templates, and those of
// datasets, for their records. Only NOCOW files can share blocks with NOCOW images, and on a mount that compresses,
// direct I/O works only on NOCOW files. Subvolumes do not inherit the attribute.
func (*Btrfs) Prepare(root folder.Dir) error {
	for _, name := range []string{Incoming, Datasets, Copies, Templates} {
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
func (*Btrfs) PrepareDir(dir folder.Dir) error { return btrfsctl.SetNOCOW(dir.File) }

// Note implements Layout.
func (*Btrfs) Note() string {
	return "btrfs: each image NOCOW in a separate subvolume, constant-time snapshots regardless of fragmentation"
}

// Image implements Layout.
func (*Btrfs) Image(item string) string { return path.Join(item, btrfsImage) }

// Create implements Layout.
func (l *Btrfs) Create(dir folder.Dir, item string) (*os.File, error) {
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
func (*Btrfs) Clone(
	dir folder.Dir,
	item string,
	srcDir folder.Dir,
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
func (*Btrfs) Costly() bool { return false }

// Rename implements Layout.
func (*Btrfs) Rename(dir folder.Dir, item, to string) error { return dir.Rename(item, to) }

// Replace exchanges the two items, so that there is no moment without the item.
func (*Btrfs) Replace(dir folder.Dir, item, replacement string) error {
	return dir.Exchange(replacement, item)
}

// Swap implements Layout.
func (*Btrfs) Swap(dir folder.Dir, a, b string) error { return dir.Exchange(a, b) }

// Protect implements Layout.
func (*Btrfs) Protect(dir folder.Dir, item string) error {
	sub, err := dir.Sub(item)
	if err != nil {
		return err
	}
	return errors.Join(btrfsctl.SetReadOnly(sub.File), sub.Close())
}

// Seal clones the item, because every snapshot is read-only.
func (l *Btrfs) Seal(dir folder.Dir, item, to string) (durable bool, err error) {
	if durable, err = l.Clone(dir, to, dir, item, true); err != nil {
		return false, err
	}
	return durable, l.Remove(dir, item)
}

// Remove implements Layout.
func (*Btrfs) Remove(dir folder.Dir, item string) error {
	return folder.AbsentIsFine(btrfsctl.Delete(dir.File, item))
}

// Settle waits for the ordered extents of the file, which btrfs adds to the file after the write has returned.
// Reading the extent map waits for them (btrfs_fiemap) and flushes nothing.
func (*Btrfs) Settle(f *os.File) error {
	_, err := reflink.Extents(f)
	return err
}

// Flush commits the running transaction. Concurrent callers share one commit.
func (l *Btrfs) Flush(dir folder.Dir) error {
	return l.commits.Wait(func() error { return btrfsctl.Commit(dir.File) })
}

// Item implements Layout.
func (*Btrfs) Item(name string) (string, bool) { return name, isItem(name) }
