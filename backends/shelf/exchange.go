package shelf

import (
	"cmp"
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"

	"github.com/google/uuid"
	"golang.org/x/sys/unix"

	"github.com/droverhq/drover/dataset"
	"github.com/droverhq/drover/internal/safefile"
)

// Exchange moves datasets between the pools of a share. Each pool belongs to one host.
type Exchange struct{ *Shelf }

// NewExchange returns the exchange of a pool with the other pools of its share.
func NewExchange(s *Shelf) *Exchange { return &Exchange{s} }

// Take moves a complete dataset from another pool of the share to the ready datasets of this pool, with d as its
// record. The other pool can belong to another host. Take writes the record before it moves the dataset, so that a
// later Take with a smaller epoch fails. The move is durable when Take returns. Take fails with dataset.ErrNotFound if
// the other pool does not have the dataset, and with dataset.ErrConflict if the dataset was taken at a later epoch than
// d's. ConfirmTaken reports whether an earlier attempt succeeded.
func (x *Exchange) Take(from string, d dataset.Dataset) error {
	defer x.claims.Use(d.ID)()
	root, err := x.Enter()
	if err != nil {
		return err
	}
	defer root.Close()
	otherRoot, f, err := x.openComplete(from, d.ID)
	if err != nil {
		return err
	}
	defer otherRoot.Close()
	if err = CheckOneMount(otherRoot, areaOf(f.State), root, Datasets); err == nil {
		err = f.assign(d)
	}
	if err == nil {
		err = moveBetween(otherRoot, areaOf(f.State), root, Datasets, d.ID.String())
	}
	return errors.Join(err, f.Close())
}

// Check fails with dataset.ErrNotFound unless a pool of the share has the complete dataset, and with
// dataset.ErrUnsupported if Take could not move the dataset from that pool.
func (x *Exchange) Check(from string, id uuid.UUID) error {
	root, err := x.Enter()
	if err != nil {
		return err
	}
	defer root.Close()
	otherRoot, f, err := x.openComplete(from, id)
	if err != nil {
		return err
	}
	return errors.Join(CheckOneMount(otherRoot, areaOf(f.State), root, Datasets), f.Close(), otherRoot.Close())
}

// CheckOneMount fails with dataset.ErrUnsupported unless files of one directory can be renamed into another one. It
// renames a name that does not exist. The kernel compares the two mounts before it looks for the name. A server that
// exports two filesystems appears as two mounts.
func CheckOneMount(from safefile.Dir, dir string, to safefile.Dir, into string) error {
	err := rename(from, dir, to, into, Temp+uuid.NewString())
	switch {
	case errors.Is(err, unix.EXDEV):
		return dataset.Errorf(dataset.ErrUnsupported,
			"%s and %s are not on the same mount, so no volume can move between them: unmount what is mounted on "+
				"either, here or on the server, and make it a plain folder", from.Name(),
			to.Name())
	case errors.Is(err, fs.ErrNotExist):
		return nil
	}
	return err
}

// Open opens a complete dataset of a pool of the share. It fails with dataset.ErrNotFound if the pool does not have it.
func (x *Exchange) Open(at string, id uuid.UUID) (*Folder, error) {
	root, f, err := x.openComplete(at, id)
	if err != nil {
		return nil, err
	}
	return f, root.Close()
}

// openComplete opens a complete dataset of another pool of the same backend, and that pool.
func (x *Exchange) openComplete(at string, id uuid.UUID) (otherRoot safefile.Dir, f *Folder, err error) {
	other := &directory{path: at, mark: marker{Backend: x.mark.Backend}}
	otherRoot, m, err := other.open()
	if err != nil {
		return otherRoot, nil, err
	}
	if m.Backend != x.mark.Backend {
		return safefile.Dir{}, nil, errors.Join(other.notFoundError(id), otherRoot.Close())
	}
	for _, area := range areas()[:2] {
		f, err := openFolder(otherRoot, area, id, func() {})
		if err == nil {
			if err := f.checkFormat(); err != nil {
				return safefile.Dir{}, nil, errors.Join(err, f.Close(), otherRoot.Close())
			}
		}
		if err == nil {
			var complete bool
			if complete, err = x.isComplete(f); complete && err == nil {
				return otherRoot, f, nil
			}
			err = errors.Join(err, f.Close())
		}
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return safefile.Dir{}, nil, errors.Join(err, otherRoot.Close())
		}
	}
	return safefile.Dir{}, nil, errors.Join(other.notFoundError(id), otherRoot.Close())
}

// ConfirmTaken reports whether an earlier Take of the dataset d succeeded. after is the last epoch of the previous
// home. The earlier Take succeeded if this pool has the complete dataset, and the epoch of its record is later than
// after. ConfirmTaken then writes d as its record.
//
// It fails with dataset.ErrConflict if the epoch of the present record is later than that of d. It also fails with
// dataset.ErrConflict if that epoch is not later than after: then the data is from an earlier time at which this pool
// was the home. In both cases nothing is changed.
func (x *Exchange) ConfirmTaken(d dataset.Dataset, after uint64) (bool, error) {
	if err := x.Refresh(); err != nil {
		return false, err
	}
	f, err := x.FindDataset(d.ID)
	if errors.Is(err, dataset.ErrNotFound) {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	defer f.Close()
	present, err := f.ReadRecord()
	if err != nil {
		return false, err
	}
	if present.Epoch <= after {
		return false, dataset.Errorf(dataset.ErrConflict,
			"dataset %s in %s has the state of epoch %d, and its state of epoch %d no longer exists", d.ID,
			x.title(), present.Epoch, after)
	}
	return true, f.assign(d)
}

// assign writes the record with which a dataset gets a new home. It fails with dataset.ErrConflict if the present
// record is of a later epoch.
func (f *Folder) assign(d dataset.Dataset) error {
	present, err := f.ReadRecord()
	if err != nil {
		return err
	}
	if present.Epoch > d.Epoch {
		return dataset.Errorf(dataset.ErrConflict, "dataset %s is at epoch %d there, and was requested at epoch %d",
			d.ID, present.Epoch, d.Epoch)
	}
	return f.WriteRecord(d, true)
}

// moveBetween durably moves a name from one directory to another. It fails if the destination exists and is not empty.
func moveBetween(from safefile.Dir, dir string, to safefile.Dir, into, name string) error {
	if err := rename(from, dir, to, into, name); err != nil {
		return fmt.Errorf("move %s to %s: %w", filepath.Join(from.Name(), dir, name),
			filepath.Join(to.Name(), into), err)
	}
	return nil
}

// rename does the work of moveBetween. moveBetween adds the two paths to its errors.
func rename(from safefile.Dir, dir string, to safefile.Dir, into, name string) error {
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

// Refresh makes changes by another host visible in this pool: the client of a share may use its cache for a minute.
func (x *Exchange) Refresh() error {
	root, err := x.Enter()
	if err != nil {
		return err
	}
	defer root.Close()
	for _, name := range []string{".", Incoming, Datasets} {
		if err := refresh(root, name); err != nil {
			return err
		}
	}
	return nil
}

// refresh reads the attributes of a directory from the server.
func refresh(root safefile.Dir, name string) error {
	dir, err := root.Open(name)
	if err != nil {
		return err
	}
	defer dir.Close()
	var st unix.Statx_t
	return unix.Statx(int(dir.Fd()), "", unix.AT_EMPTY_PATH|unix.AT_STATX_FORCE_SYNC, unix.STATX_BASIC_STATS, &st)
}

// FindPools returns the paths of the pools in dir that belong to the backend and have this ID. If it finds none, but
// dir has a pool of a later format, it fails with dataset.ErrUnsupported, because it cannot know the ID of that pool.
// If it finds none, but cannot open a directory in dir, it fails with that error: the directory may be the pool.
func FindPools(dir safefile.Dir, backend string, id uuid.UUID) ([]string, error) {
	if err := refresh(dir, "."); err != nil {
		return nil, err
	}
	names, err := dir.Names(".")
	if err != nil {
		return nil, err
	}
	var found []string
	var laterFormat, unopened error
	for _, name := range names {
		sub, err := dir.Sub(name)
		if errors.Is(err, unix.ENOTDIR) || errors.Is(err, unix.ELOOP) || errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			unopened = errors.Join(unopened, err)
			continue
		}
		m, err := readMarker(sub, backend)
		if errors.Is(err, dataset.ErrUnsupported) {
			laterFormat, err = fmt.Errorf("%s: %w", filepath.Join(dir.Name(), name), err), nil
		}
		if err == nil && m.Backend == backend && m.ID == id {
			err = errors.Join(refresh(sub, Incoming), refresh(sub, Datasets))
			found = append(found, filepath.Join(dir.Name(), name))
		}
		if err := errors.Join(err, sub.Close()); err != nil && !errors.Is(err, fs.ErrNotExist) &&
			!errors.Is(err, dataset.ErrCorrupt) {
			return nil, err
		}
	}
	if len(found) == 0 {
		return nil, cmp.Or(laterFormat, unopened)
	}
	return found, nil
}
