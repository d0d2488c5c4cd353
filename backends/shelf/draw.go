package shelf

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/google/uuid"
	"golang.org/x/sys/unix"

	"github.com/droverhq/drover/backends"
	"github.com/droverhq/drover/dataset"
)

// Draw makes a dataset that is whole on another shelf of this filesystem, which may be another
// host's, one of this shelf, ready, with d as its record; that record goes first, so that it is never drawn
// to an earlier epoch than before. ErrNotFound: it is not there. ErrConflict: it was drawn at a later epoch
// than d's. Durable when it returns. Again: see Have.
func (s *Shelf) Draw(from string, d dataset.Dataset) error {
	defer s.claims.Use(d.ID)()
	root, err := s.Enter()
	if err != nil {
		return err
	}
	defer root.Close()
	there, f, err := s.lying(from, d.ID)
	if err != nil {
		return err
	}
	defer there.Close()
	if err = OneMount(there, areaOf(f.State), root, readyArea); err == nil {
		err = f.hand(d)
	}
	if err == nil {
		err = pass(there, areaOf(f.State), root, readyArea, d.ID.String())
	}
	return errors.Join(err, f.Close())
}

// Seen fails with ErrNotFound unless a dataset that is whole is on another shelf of this
// filesystem, or on this one; with ErrUnsupported where it could not be drawn from there.
func (s *Shelf) Seen(from string, id uuid.UUID) error {
	root, err := s.Enter()
	if err != nil {
		return err
	}
	defer root.Close()
	there, f, err := s.lying(from, id)
	if err != nil {
		return err
	}
	return errors.Join(OneMount(there, areaOf(f.State), root, readyArea), f.Close(), there.Close())
}

// OneMount fails with ErrUnsupported unless files of the one directory can be renamed into the other one. It
// asks for a name that neither has: the kernel looks at their mounts first, and a share's server that has two
// filesystems there is two mounts here.
func OneMount(from *os.Root, dir string, to *os.Root, into string) error {
	err := rename(from, dir, to, into, Temp+uuid.NewString())
	switch {
	case errors.Is(err, unix.EXDEV):
		return dataset.Errorf(dataset.ErrUnsupported,
			"%s and %s are not of one mount, so no volume goes from the one to the other: unmount what is "+
				"mounted on either, here or where the server has it, and make it a plain folder", from.Name(),
			to.Name())
	case errors.Is(err, fs.ErrNotExist):
		return nil
	}
	return err
}

// Visited opens a dataset that is whole on another shelf of this filesystem, or on this one, with
// that shelf; done closes it. ErrNotFound.
func (s *Shelf) Visited(at string, id uuid.UUID) (there *Shelf, f *Folder, done func() error, err error) {
	root, f, err := s.lying(at, id)
	if err != nil {
		return nil, nil, nil, err
	}
	return &Shelf{path: at}, f, func() error { return errors.Join(f.Close(), root.Close()) }, nil
}

// lying opens a dataset that is whole on another shelf of the same kind, and that shelf.
func (s *Shelf) lying(at string, id uuid.UUID) (there *os.Root, f *Folder, err error) {
	other := &Shelf{path: at}
	there, m, err := other.read()
	if err != nil {
		return nil, nil, err
	}
	if m.Backend != s.mark.Backend || m.Format > format {
		return nil, nil, errors.Join(other.notFound(id), there.Close())
	}
	for _, area := range areas()[:2] {
		f, err := other.open(there, area, id, func() {})
		if err == nil && (f.State != backends.EntryIncoming || f.whole()) {
			return there, f, nil
		}
		if err == nil {
			err = f.Close()
		}
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return nil, nil, errors.Join(err, there.Close())
		}
	}
	return nil, nil, errors.Join(other.notFound(id), there.Close())
}

// Have reports whether a dataset is here and whole, drawn after an epoch; it gets d as its
// record, unless that is of an earlier epoch than it has: ErrConflict. A dataset that was here before is a
// different one, and is left as it is: ErrConflict.
func (s *Shelf) Have(d dataset.Dataset, after uint64) (bool, error) {
	if err := s.Anew(); err != nil {
		return false, err
	}
	f, err := s.Find(d.ID)
	if errors.Is(err, dataset.ErrNotFound) {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	defer f.Close()
	had, err := f.ReadRecord()
	if err != nil {
		return false, err
	}
	if had.Epoch <= after {
		return false, dataset.Errorf(dataset.ErrConflict,
			"dataset %s lies in %s as it was at epoch %d, and where it was at epoch %d it is no more", d.ID,
			s.title(), had.Epoch, after)
	}
	return true, f.hand(d)
}

// hand gives a dataset the record that says whose it is from then on.
func (f *Folder) hand(d dataset.Dataset) error {
	had, err := f.ReadRecord()
	if err != nil {
		return err
	}
	if had.Epoch > d.Epoch {
		return dataset.Errorf(dataset.ErrConflict, "dataset %s is at epoch %d there, and was asked for at epoch %d",
			d.ID, had.Epoch, d.Epoch)
	}
	return f.WriteRecord(d, true)
}

// pass moves a name from one directory to another, durably. One that holds something is in
// the way.
func pass(from *os.Root, dir string, to *os.Root, into, name string) error {
	if err := rename(from, dir, to, into, name); err != nil {
		return fmt.Errorf("move %s to %s: %w", filepath.Join(from.Name(), dir, name),
			filepath.Join(to.Name(), into), err)
	}
	return nil
}

func rename(from *os.Root, dir string, to *os.Root, into, name string) error {
	src, err := from.Open(dir)
	if err != nil {
		return err
	}
	defer src.Close()
	dst, err := to.Open(into)
	if err != nil {
		return err
	}
	defer dst.Close()
	if err := unix.Renameat(int(src.Fd()), name, int(dst.Fd()), name); err != nil {
		return err
	}
	return errors.Join(syncOpen(dst), syncOpen(src))
}

// Anew makes the changes of another host on this shelf visible: a client of a share may use its cache for a minute.
func (s *Shelf) Anew() error {
	root, err := s.Enter()
	if err != nil {
		return err
	}
	defer root.Close()
	for _, name := range []string{".", incomingArea, readyArea} {
		if err := anew(root, name); err != nil {
			return err
		}
	}
	return nil
}

func anew(root *os.Root, name string) error {
	dir, err := root.Open(name)
	if err != nil {
		return err
	}
	defer dir.Close()
	var st unix.Statx_t
	return unix.Statx(int(dir.Fd()), "", unix.AT_EMPTY_PATH|unix.AT_STATX_FORCE_SYNC, unix.STATX_BASIC_STATS, &st)
}

// Beside returns the paths of the shelves in a directory that say that they are that pool of a
// backend.
func Beside(dir *os.Root, backend string, id uuid.UUID) ([]string, error) {
	if err := anew(dir, "."); err != nil {
		return nil, err
	}
	names, err := ReadNames(dir, ".")
	if err != nil {
		return nil, err
	}
	var found []string
	for _, name := range names {
		sub, err := openSub(dir, name)
		if err != nil {
			continue // no directory
		}
		m, err := readMarker(sub)
		if err == nil && m.Backend == backend && m.ID == id {
			err = errors.Join(anew(sub, incomingArea), anew(sub, readyArea))
			found = append(found, filepath.Join(dir.Name(), name))
		}
		if err := errors.Join(err, sub.Close()); err != nil && !errors.Is(err, fs.ErrNotExist) &&
			!errors.Is(err, dataset.ErrCorrupt) {
			return nil, err
		}
	}
	return found, nil
}
