package loop

import (
	"errors"
	"fmt"
	"os"
	"strings"

	"github.com/google/uuid"
	"golang.org/x/sys/unix"

	"github.com/droverhq/drover/internal/linux/fsctl"
	"github.com/droverhq/drover/internal/linux/reflink"
)

// Items of a dataset's directory besides its snapshots, which bear their UUID.
const (
	head = "head"
	next = "next" // becomes the head in one step, or is worthless
	part = "part" // becomes a snapshot of a copy, when all of it has come
)

// layout is how a pool keeps items, each of them one image.
type layout interface {
	// prepare sets what the pool's directories pass on to what is made in them.
	prepare(root folder) error
	// note is a line for people: which way it works.
	note() string
	// image is the path of an item's image below its dataset's directory.
	image(item string) string
	// create makes an item with an empty image, open for writing.
	create(dir folder, item string) (*os.File, error)
	// clone makes item what another is, which may be written to. It is there whole or
	// not at all. os.ErrExist when it is there. It tells whether the item, and all that
	// was done to the pool before, is durable already.
	clone(dir folder, item string, srcDir folder, src string, readOnly bool) (durable bool, err error)
	// costly tells whether a clone costs what its extents do.
	costly() bool
	// rename gives an item a name that none has.
	rename(dir folder, item, to string) error
	// replace makes item what by is, in one step that leaves it the one or the other.
	// by is worthless then.
	replace(dir folder, item, by string) error
	// swap gives each of two items the name of the other, in one step.
	swap(dir folder, a, b string) error
	// protect keeps an item from being written to that has become a snapshot, as far as others
	// are.
	protect(dir folder, item string) error
	// seal gives an item that is whole and flushed the name of a snapshot. It tells whether
	// that is durable already.
	seal(dir folder, item, to string) (durable bool, err error)
	// remove destroys an item. One that is absent is fine.
	remove(dir folder, item string) error
	// settle waits until what direct I/O wrote to a file is part of the file, so that a
	// name given after can't get to the disk before it.
	settle(f *os.File) error
	// flush makes all that was done to dir and below durable.
	flush(dir folder) error
	// item tells which item a name in a dataset's directory is.
	item(name string) (item string, ok bool)
}

// xfsLayout keeps items as files.
type xfsLayout struct{}

// prepare has what is written over shared blocks allocated block by block. XFS's own
// 128 KiB took 447 MiB of the pool for 93 MiB of random writes after a snapshot, one
// block 87 MiB, in the same time and with as many extents.
func (xfsLayout) prepare(root folder) error {
	var st unix.Statfs_t
	if err := unix.Fstatfs(root.fd(), &st); err != nil {
		return err
	}
	for _, name := range []string{incoming, datasets, copies} {
		dir, err := root.sub(name)
		if err != nil {
			return err
		}
		if err := errors.Join(fsctl.SetCowExtentSize(dir.File, uint32(st.Bsize)), dir.Close()); err != nil {
			return err
		}
	}
	return nil
}

func (xfsLayout) note() string {
	return "XFS with reflinks: snapshots by FICLONE, which holds writers up about 15 µs an extent"
}

const imageSuffix = ".img"

func (xfsLayout) image(item string) string { return item + imageSuffix }

func (l xfsLayout) create(dir folder, item string) (*os.File, error) {
	return dir.openFile(l.image(item), os.O_CREATE|os.O_EXCL|os.O_RDWR)
}

func (l xfsLayout) clone(dir folder, item string, srcDir folder, src string, _ bool) (durable bool, err error) {
	from, err := srcDir.open(l.image(src))
	if err != nil {
		return false, err
	}
	defer from.Close()
	if _, err := dir.lstat(l.image(item)); err == nil {
		return false, fmt.Errorf("%s: %w", dir.path(l.image(item)), os.ErrExist)
	}
	tmp := tmpPrefix + l.image(item)
	if err := absentIsFine(dir.remove(tmp)); err != nil { // not written over: it may be another name of what is used
		return false, err
	}
	to, err := dir.openFile(tmp, os.O_CREATE|os.O_EXCL|os.O_RDWR)
	if err != nil {
		return false, err
	}
	if err := errors.Join(reflink.Clone(to, from), to.Close()); err != nil {
		return false, errors.Join(err, dir.remove(tmp))
	}
	return false, dir.rename(tmp, l.image(item))
}

func (xfsLayout) costly() bool { return true }

func (l xfsLayout) rename(dir folder, item, to string) error {
	return dir.rename(l.image(item), l.image(to))
}

func (l xfsLayout) replace(dir folder, item, by string) error {
	return dir.rename(l.image(by), l.image(item))
}

func (l xfsLayout) swap(dir folder, a, b string) error {
	return dir.exchange(l.image(a), l.image(b))
}

func (xfsLayout) protect(folder, string) error { return nil }

func (l xfsLayout) seal(dir folder, item, to string) (durable bool, err error) {
	return false, l.rename(dir, item, to)
}

func (l xfsLayout) remove(dir folder, item string) error {
	return absentIsFine(dir.remove(l.image(item)))
}

// settle has nothing to wait for: the write made its transaction before it returned.
func (xfsLayout) settle(*os.File) error { return nil }

// flush forces the log: see the package comment.
func (xfsLayout) flush(dir folder) error { return dir.Sync() }

func (xfsLayout) item(name string) (string, bool) {
	item, ok := strings.CutSuffix(name, imageSuffix)
	return item, ok && isItem(item)
}

func isItem(name string) bool {
	if name == head || name == next || name == part {
		return true
	}
	_, err := parseID(name)
	return err == nil
}

// parseID reads a UUID in the one spelling that names have here.
func parseID(s string) (uuid.UUID, error) {
	id, err := uuid.Parse(s)
	if err == nil && id.String() != s {
		err = fmt.Errorf("%q is no UUID as Drover writes it", s)
	}
	return id, err
}

func absentIsFine(err error) error {
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	return err
}
