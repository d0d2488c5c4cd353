package shelf

import (
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/google/uuid"
	"golang.org/x/sys/unix"

	"github.com/droverhq/drover/backends"
	"github.com/droverhq/drover/backends/stream"
	"github.com/droverhq/drover/dataset"
	"github.com/droverhq/drover/internal/safefile"
)

// Folder is the open folder of one dataset. The caller closes it.
type Folder struct {
	safefile.Dir
	ID    uuid.UUID
	State backends.EntryState // ready, incoming or copy

	pool string // the path of the pool
	done func() // releases the claim on the dataset
}

// Close closes the folder.
func (f *Folder) Close() error {
	f.done()
	return f.Dir.Close()
}

// errForeign says that the place of a dataset belongs to something else.
var errForeign = errors.New("drover did not create it")

// openFolder opens the folder of a dataset in an area of root, the directory of a pool. Close calls done. It fails with
// fs.ErrNotExist if there is no folder, and with dataset.ErrCorrupt if the name belongs to something else.
func openFolder(root safefile.Dir, area string, id uuid.UUID, done func()) (*Folder, error) {
	sub, err := root.Sub(filepath.Join(area, id.String()))
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return nil, err
	case errors.Is(err, unix.ENOTDIR), errors.Is(err, unix.ELOOP):
		err = fmt.Errorf("%w: its name is the UUID of a dataset, but it is not a directory", errForeign)
	}
	if err != nil {
		return nil, dataset.Errorf(dataset.ErrCorrupt, "dataset %s: %w", id, err)
	}
	f := &Folder{Dir: sub, ID: id, State: stateOf(area), pool: root.Name(), done: done}
	if f.State != backends.EntryReady {
		return f, nil
	}
	names, err := sub.Names(".")
	if err == nil && len(names) == 0 {
		err = dataset.Errorf(dataset.ErrCorrupt, "%w: %s has the name of a dataset, but is empty", errForeign,
			filepath.Join(root.Name(), area, id.String()))
	}
	if err != nil {
		_ = sub.Close()
		return nil, err
	}
	return f, nil
}

// Path returns the path of the folder.
func (f *Folder) Path() string { return filepath.Join(f.pool, areaOf(f.State), f.ID.String()) }

// areaOf returns the area of the folders in a state.
func areaOf(state backends.EntryState) string {
	switch state {
	case backends.EntryIncoming:
		return Incoming
	case backends.EntryCopy:
		return Copies
	}
	return Datasets
}

// stateOf returns the state of the folders in an area.
func stateOf(area string) backends.EntryState {
	switch area {
	case Incoming:
		return backends.EntryIncoming
	case Copies:
		return backends.EntryCopy
	}
	return backends.EntryReady
}

// parseName returns the ID of the dataset from the name of its folder in an area.
func parseName(area, name string) (uuid.UUID, bool) {
	if area == Deleting { // see Shelf.moveAway
		before, number, numbered := strings.Cut(name, ".")
		if n, err := strconv.Atoi(number); numbered && (err != nil || n < 1 || strconv.Itoa(n) != number) {
			return uuid.Nil, false
		}
		name = before
	}
	return ParseID(name)
}

// ParseID reads a UUID in the spelling that Drover uses for names.
func ParseID(name string) (uuid.UUID, bool) {
	id, err := uuid.Parse(name)
	return id, err == nil && id.String() == name
}

// Has reports whether the folder has a file. It fails if that cannot be read.
func (f *Folder) Has(name string) (bool, error) {
	_, err := f.Lstat(name)
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	return err == nil, err
}

// isEmpty reports whether the folder of a copy has no files except temporary ones. A crash while the folder is made
// leaves such a folder.
func (f *Folder) isEmpty() bool {
	names, err := f.Names(".")
	for _, name := range names {
		if !strings.HasPrefix(name, Temp) {
			return false
		}
	}
	return err == nil
}

// NoHeadError returns the error for a call that needs a head, on a copy without one.
func NoHeadError(id uuid.UUID) error {
	return dataset.Errorf(dataset.ErrConflict, "only a copy of dataset %s, without a head, is stored here", id)
}

// WriteRecord replaces the record; see WriteJSON.
func (f *Folder) WriteRecord(d dataset.Dataset, sync bool) error {
	return WriteJSON(f.Dir, RecordFile, d, sync)
}

// checkFormat fails with dataset.ErrUnsupported if the record has a later format. A record that is absent or damaged is
// no error.
func (f *Folder) checkFormat() error {
	if err := ReadJSON(f.Dir, RecordFile, &struct{}{}); errors.Is(err, dataset.ErrUnsupported) {
		return fmt.Errorf("dataset %s in %s: %w", f.ID, f.pool, err)
	}
	return nil
}

// ReadRecord reads the record. It fails with dataset.ErrUnsupported if the record has a later format, and with
// dataset.ErrCorrupt if it is absent, damaged or that of another dataset.
func (f *Folder) ReadRecord() (*dataset.Dataset, error) { return ReadRecord(f.Dir, f.ID) }

// ReadRecord is Folder.ReadRecord for the open folder of a dataset.
func ReadRecord(folder safefile.Dir, id uuid.UUID) (*dataset.Dataset, error) {
	var d dataset.Dataset
	err := ReadJSON(folder, RecordFile, &d)
	if errors.Is(err, dataset.ErrUnsupported) {
		return nil, fmt.Errorf("record of dataset %s: %w", id, err)
	}
	if err != nil {
		return nil, dataset.Errorf(dataset.ErrCorrupt, "record of dataset %s: %w", id, err)
	}
	if d.ID != id {
		return nil, dataset.Errorf(dataset.ErrCorrupt, "the record of dataset %s belongs to %s", id, d.ID)
	}
	return &d, nil
}

// Received is Shelf.Received for an open folder.
func (f *Folder) Received(snapshot uuid.UUID,
	streamOf func(*Folder, uuid.UUID) (backends.Stream, error)) (backends.Received, error) {
	last, err := streamOf(f, snapshot)
	switch {
	case err == nil:
		return backends.Received{Complete: true, Stream: last}, nil
	case !errors.Is(err, dataset.ErrNotFound):
		return backends.Received{}, err
	}
	if part := stream.Partial(f.Dir); f.State == backends.EntryCopy && part != nil && part.Snapshot == snapshot {
		return backends.Received{Bytes: part.Bytes, Base: part.Base}, nil
	}
	return backends.Received{}, nil
}

// BeginReceive begins a delivery into the folder. If the pool has the snapshot already, complete is true, last
// describes the stream of the snapshot, and the snapshot is durable. BeginReceive then also removes the received part.
// BeginReceive fails if the delivery does not continue the received part.
func (f *Folder) BeginReceive(d backends.Delivery,
	streamOf func(*Folder, uuid.UUID) (backends.Stream, error)) (last backends.Stream, complete bool, err error) {
	received, err := f.Received(d.Snapshot.ID, streamOf)
	switch {
	case err != nil:
		return last, false, err
	case received.Complete:
		return received.Stream, true, errors.Join(stream.Drop(f.Dir), SyncDir(f.Dir))
	}
	return last, false, d.CheckResume(received)
}

// Spool returns the spool that collects the stream of a snapshot in the folder.
func (f *Folder) Spool(room func(received int64) error, step func(string)) stream.Spool {
	return stream.Spool{
		Root:  f.Dir,
		Room:  room,
		Step:  step,
		Write: func(name string, v any) error { return WriteJSON(f.Dir, name, v, true) },
	}
}
