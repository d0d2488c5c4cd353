package shelf

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/google/uuid"

	"github.com/droverhq/drover/backends"
	"github.com/droverhq/drover/backends/spool"
	"github.com/droverhq/drover/dataset"
)

// Folder is the open folder of one dataset. The caller closes it.
type Folder struct {
	*os.Root
	ID    uuid.UUID
	State backends.EntryState // ready, incoming or copy

	pool string // the path of the pool
	done func() // releases the claim on the dataset
}

// Close closes the folder.
func (f *Folder) Close() error {
	f.done()
	return f.Root.Close()
}

// openFolder opens the folder of a dataset in an area of root, the directory of a pool. Close calls done. It fails with
// fs.ErrNotExist if there is no folder, and with dataset.ErrCorrupt if the name belongs to something else.
func openFolder(root *os.Root, area string, id uuid.UUID, done func()) (*Folder, error) {
	sub, err := openSubdir(root, filepath.Join(area, id.String()))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	if err != nil {
		return nil, dataset.Errorf(dataset.ErrCorrupt, "dataset %s: %w", id, err)
	}
	f := &Folder{Root: sub, ID: id, State: backends.EntryReady, pool: root.Name(), done: done}
	switch area {
	case incomingArea:
		f.State = backends.EntryIncoming
		return f, nil
	case copiesArea:
		f.State = backends.EntryCopy
		return f, nil
	}
	names, err := ReadNames(sub, ".")
	if err == nil && len(names) == 0 {
		err = dataset.Errorf(dataset.ErrCorrupt, "%s has the name of a dataset, but is empty, so drover did not "+
			"create it",
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
		return incomingArea
	case backends.EntryCopy:
		return copiesArea
	}
	return readyArea
}

// parseName returns the ID of the dataset from the name of its folder in an area.
func parseName(area, name string) (uuid.UUID, bool) {
	if area == deletingArea {
		name, _, _ = strings.Cut(name, ".")
	}
	id, err := uuid.Parse(name)
	return id, err == nil && id.String() == name
}

// isComplete reports whether the folder has its record. The record of a dataset is the last file that is written, and
// that of a copy the first one.
func (f *Folder) isComplete() bool {
	_, err := f.Lstat(recordName)
	return err == nil
}

// isEmpty reports whether the folder of a copy has no files except temporary ones. A crash while the folder is made
// leaves such a folder.
func (f *Folder) isEmpty() bool {
	names, err := ReadNames(f.Root, ".")
	for _, name := range names {
		if !strings.HasPrefix(name, Temp) {
			return false
		}
	}
	return err == nil
}

// NoHeadError returns the error for a call that needs a head, on a copy without one.
func (f *Folder) NoHeadError() error {
	return dataset.Errorf(dataset.ErrConflict, "only a copy of dataset %s, without a head, is stored here", f.ID)
}

// WriteRecord replaces the record; see WriteJSON.
func (f *Folder) WriteRecord(d dataset.Dataset, sync bool) error {
	return WriteJSON(f.Root, recordName, d, sync)
}

// checkFormat fails with dataset.ErrUnsupported if the record has a later format. A record that is absent or damaged is
// no error.
func (f *Folder) checkFormat() error {
	if err := ReadJSON(f.Root, recordName, &struct{}{}); errors.Is(err, dataset.ErrUnsupported) {
		return fmt.Errorf("dataset %s in %s: %w", f.ID, f.pool, err)
	}
	return nil
}

// ReadRecord reads the record. It fails with dataset.ErrUnsupported if the record has a later format, and with
// dataset.ErrCorrupt if it is absent, damaged or that of another dataset.
func (f *Folder) ReadRecord() (*dataset.Dataset, error) {
	var d dataset.Dataset
	err := ReadJSON(f.Root, recordName, &d)
	if errors.Is(err, dataset.ErrUnsupported) {
		return nil, fmt.Errorf("record of dataset %s: %w", f.ID, err)
	}
	if err != nil {
		return nil, dataset.Errorf(dataset.ErrCorrupt, "record of dataset %s: %w", f.ID, err)
	}
	if d.ID != f.ID {
		return nil, dataset.Errorf(dataset.ErrCorrupt, "the record of dataset %s belongs to %s", f.ID, d.ID)
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
	if part := spool.Partial(f.Root); f.State == backends.EntryCopy && part != nil && part.Snapshot == snapshot {
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
		return received.Stream, true, errors.Join(spool.Drop(f.Root), SyncDir(f.Root))
	}
	return last, false, d.CheckResume(received)
}

// Spool returns the spool that collects the stream of a snapshot in the folder.
func (f *Folder) Spool(room func(received int64) error, step func(string)) spool.Spool {
	return spool.Spool{
		Root:  f.Root,
		Room:  room,
		Step:  step,
		Write: func(name string, v any) error { return WriteJSON(f.Root, name, v, true) },
	}
}
