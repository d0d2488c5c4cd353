package loop

import (
	"errors"
	"fmt"
	"os"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/droverhq/drover/backends/shelf"
	"github.com/droverhq/drover/internal/linux/fsctl"
	"github.com/droverhq/drover/internal/linux/reflink"
	"github.com/droverhq/drover/internal/safefile"
)

// The items of a dataset besides its snapshots. The name of a snapshot is its UUID.
const (
	headItem = "head"
	nextItem = "next" // becomes the head in one step; worthless after a crash
	partItem = "part" // the received part of a snapshot; becomes the snapshot when it is complete
)

// layout is the way in which a pool stores items. Each item is one image.
type layout interface {
	// Prepare sets the attributes of the directories of a pool that new files inherit.
	Prepare(root safefile.Dir) error
	// PrepareDir sets the attributes of a directory whose new files will share blocks with images.
	PrepareDir(dir safefile.Dir) error
	// Note describes the layout in a line for people.
	Note() string
	// Image returns the path of an item's image below the dataset's directory.
	Image(item string) string
	// Create makes an item with an empty image, and returns the image open for writing.
	Create(dir safefile.Dir, item string) (*os.File, error)
	// Clone makes item a clone of src. It makes the complete item or nothing. It fails with os.ErrExist if the item
	// exists. durable reports whether the item and all earlier changes of the pool are on the disk already.
	Clone(dir safefile.Dir, item string, srcDir safefile.Dir, src string, readOnly bool) (durable bool, err error)
	// Costly reports whether the cost of a clone grows with the number of extents.
	Costly() bool
	// Rename gives an item a name that no item has.
	Rename(dir safefile.Dir, item, to string) error
	// Replace replaces item in one step: after a crash, item is the old or the new one. replacement is the name of the
	// new item before the call. The caller must not use that name afterwards.
	Replace(dir safefile.Dir, item, replacement string) error
	// Swap exchanges the names of two items in one step.
	Swap(dir safefile.Dir, a, b string) error
	// Protect makes an item that has become a snapshot read-only, if the layout makes snapshots read-only.
	Protect(dir safefile.Dir, item string) error
	// Seal gives a complete and flushed item the name of a snapshot. durable reports whether the name is on the disk
	// already.
	Seal(dir safefile.Dir, item, to string) (durable bool, err error)
	// Remove destroys an item. It returns nil if the item is absent.
	Remove(dir safefile.Dir, item string) error
	// Settle waits until the data of direct writes is part of the file, so that a later rename cannot reach the disk
	// before the data.
	Settle(f *os.File) error
	// Flush makes everything that was done to dir and below durable.
	Flush(dir safefile.Dir) error
	// Item returns the item that a name in a dataset's directory belongs to.
	Item(name string) (item string, ok bool)
}

// xfsLayout keeps items as files.
type xfsLayout struct{}

// Prepare makes XFS allocate single blocks when shared blocks are overwritten. The default of XFS, 128 KiB, took 447
// MiB of the pool for 93 MiB of random writes after a snapshot. One block took 87 MiB, in the same time and with as
// many extents.
func (xfsLayout) Prepare(root safefile.Dir) error {
	var st unix.Statfs_t
	if err := unix.Fstatfs(root.FD(), &st); err != nil {
		return err
	}
	for _, name := range []string{shelf.Incoming, shelf.Datasets, shelf.Copies} {
		dir, err := root.Sub(name)
		if err != nil {
			return err
		}
		if err := errors.Join(fsctl.SetCowExtentSize(dir.File, uint32(st.Bsize)), dir.Close()); err != nil {
			return err
		}
	}
	return nil
}

// PrepareDir has nothing to set: the files of a pool on XFS can share blocks with each other.
func (xfsLayout) PrepareDir(safefile.Dir) error { return nil }

// Note implements Layout.
func (xfsLayout) Note() string {
	return "XFS with reflinks: snapshots share blocks, and taking one blocks writers for about 15 µs an extent"
}

// imageSuffix ends the names of images on XFS and of templates.
const imageSuffix = ".img"

// Image implements Layout.
func (xfsLayout) Image(item string) string { return item + imageSuffix }

// Create implements Layout.
func (l xfsLayout) Create(dir safefile.Dir, item string) (*os.File, error) {
	return dir.OpenFile(l.Image(item), os.O_CREATE|os.O_EXCL|os.O_RDWR)
}

// Clone implements Layout.
func (l xfsLayout) Clone(dir safefile.Dir, item string, srcDir safefile.Dir, src string, _ bool) (
	durable bool, err error) {
	from, err := srcDir.Open(l.Image(src))
	if err != nil {
		return false, err
	}
	defer from.Close()
	if _, err := dir.Lstat(l.Image(item)); err == nil {
		return false, fmt.Errorf("%s: %w", dir.Path(l.Image(item)), os.ErrExist)
	}
	tmp := shelf.Temp + l.Image(item)
	// The file is not overwritten: it may be a second name of an image in use.
	if err := safefile.AbsentIsFine(dir.Remove(tmp)); err != nil {
		return false, err
	}
	to, err := dir.OpenFile(tmp, os.O_CREATE|os.O_EXCL|os.O_RDWR)
	if err != nil {
		return false, err
	}
	if err := errors.Join(reflink.Clone(to, from), to.Close()); err != nil {
		return false, errors.Join(err, dir.Remove(tmp))
	}
	return false, dir.Rename(tmp, l.Image(item))
}

// Costly implements Layout.
func (xfsLayout) Costly() bool { return true }

// Rename implements Layout.
func (l xfsLayout) Rename(dir safefile.Dir, item, to string) error {
	return dir.Rename(l.Image(item), l.Image(to))
}

// Replace implements Layout.
func (l xfsLayout) Replace(dir safefile.Dir, item, replacement string) error {
	return dir.Rename(l.Image(replacement), l.Image(item))
}

// Swap implements Layout.
func (l xfsLayout) Swap(dir safefile.Dir, a, b string) error {
	return dir.Exchange(l.Image(a), l.Image(b))
}

// Protect does nothing: snapshots on XFS are not read-only.
func (xfsLayout) Protect(safefile.Dir, string) error { return nil }

// Seal implements Layout.
func (l xfsLayout) Seal(dir safefile.Dir, item, to string) (durable bool, err error) {
	return false, l.Rename(dir, item, to)
}

// Remove implements Layout.
func (l xfsLayout) Remove(dir safefile.Dir, item string) error {
	return safefile.AbsentIsFine(dir.Remove(l.Image(item)))
}

// Settle has nothing to wait for: the transaction of a write exists before the write returns.
func (xfsLayout) Settle(*os.File) error { return nil }

// Flush forces the log: see "Durability" in package loop.
func (xfsLayout) Flush(dir safefile.Dir) error { return dir.Sync() }

// Item implements Layout.
func (xfsLayout) Item(name string) (string, bool) {
	item, ok := strings.CutSuffix(name, imageSuffix)
	return item, ok && isItem(item)
}

func isItem(name string) bool {
	if name == headItem || name == nextItem || name == partItem {
		return true
	}
	_, ok := shelf.ParseID(name)
	return ok
}
