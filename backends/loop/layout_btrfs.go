package loop

import (
	"errors"
	"os"
	"path"

	"github.com/droverhq/drover/internal/linux/btrfsctl"
	"github.com/droverhq/drover/internal/linux/reflink"
)

// btrfsLayout keeps each item as a NOCOW image in a subvolume of its own.
type btrfsLayout struct {
	commits btrfsctl.Commits
}

const btrfsImage = "image"

// prepare makes templates and records NOCOW: only NOCOW files can share blocks with
// NOCOW images, and only they take direct I/O on a mount that compresses. Subvolumes
// don't inherit it.
func (*btrfsLayout) prepare(root folder) error {
	for _, name := range []string{incoming, datasets, copies, templates} {
		dir, err := root.sub(name)
		if err != nil {
			return err
		}
		if err := errors.Join(btrfsctl.SetNOCOW(dir.File), dir.Close()); err != nil {
			return err
		}
	}
	return nil
}

func (*btrfsLayout) note() string {
	return "btrfs: each image NOCOW in a subvolume of its own, snapshots in the same time however fragmented"
}

func (*btrfsLayout) image(item string) string { return path.Join(item, btrfsImage) }

func (l *btrfsLayout) create(dir folder, item string) (*os.File, error) {
	if err := btrfsctl.Create(dir.File, item); err != nil {
		return nil, err
	}
	f, err := dir.openFile(l.image(item), os.O_CREATE|os.O_EXCL|os.O_RDWR)
	if err != nil {
		return nil, err
	}
	if err := btrfsctl.SetNOCOW(f); err != nil {
		_ = f.Close()
		return nil, err
	}
	return f, nil
}

// clone is durable: a snapshot is made by the commit of the transaction that it is part of
// (create_snapshot of fs/btrfs/ioctl.c), which everything before it is part of too.
func (*btrfsLayout) clone(dir folder, item string, srcDir folder, src string, readOnly bool) (durable bool, err error) {
	from, err := srcDir.sub(src)
	if err != nil {
		return false, err
	}
	defer from.Close()
	err = btrfsctl.Snapshot(dir.File, item, from.File, readOnly)
	return err == nil, err
}

func (*btrfsLayout) costly() bool { return false }

func (*btrfsLayout) rename(dir folder, item, to string) error { return dir.rename(item, to) }

// replace exchanges the two, so that there is no moment without the item.
func (*btrfsLayout) replace(dir folder, item, by string) error { return dir.exchange(by, item) }

func (*btrfsLayout) swap(dir folder, a, b string) error { return dir.exchange(a, b) }

func (*btrfsLayout) protect(dir folder, item string) error {
	sub, err := dir.sub(item)
	if err != nil {
		return err
	}
	return errors.Join(btrfsctl.SetReadOnly(sub.File), sub.Close())
}

// seal leaves a snapshot that can't be written to, as any other.
func (l *btrfsLayout) seal(dir folder, item, to string) (durable bool, err error) {
	if durable, err = l.clone(dir, to, dir, item, true); err != nil {
		return false, err
	}
	return durable, l.remove(dir, item)
}

func (*btrfsLayout) remove(dir folder, item string) error {
	return absentIsFine(btrfsctl.Delete(dir.File, item))
}

// settle waits for the ordered extents of the file, which btrfs makes part of it after the
// write has returned. Reading the extent map does (btrfs_fiemap), and flushes nothing.
func (*btrfsLayout) settle(f *os.File) error {
	_, err := reflink.Extents(f)
	return err
}

func (l *btrfsLayout) flush(dir folder) error {
	return l.commits.Wait(func() error { return btrfsctl.Commit(dir.File) })
}

func (*btrfsLayout) item(name string) (string, bool) { return name, isItem(name) }
