package layout

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/google/uuid"

	"github.com/droverhq/drover/backends/loop/folder"
	"github.com/droverhq/drover/dataset"
)

// The names of records and of unfinished files in the directory of a dataset.
const (
	RecordFile   = "record.json"
	RecordSuffix = ".json"
	TmpPrefix    = "tmp-"
)

// SnapshotRecord returns the name of the record of a snapshot.
func SnapshotRecord(id uuid.UUID) string { return id.String() + RecordSuffix }

// Sector is the unit of direct I/O on all disks and loop devices in use, in bytes.
const Sector = 4096

// RecordWriter writes records. When a write returns, the bytes of the record are on the disk. If direct I/O works in
// the pool, this takes no flush.
type RecordWriter struct {
	Layout Layout
	Direct bool // direct I/O works in the pool
}

// Write replaces the file name in dir by v as JSON. After a power cut the file has either the old
// or the new content, because the bytes reach the disk before the name does.
func (w RecordWriter) Write(dir folder.Dir, name string, v any) error {
	tmp := TmpPrefix + name
	if err := w.WriteNew(dir, tmp, v); err != nil {
		return errors.Join(err, folder.AbsentIsFine(dir.Remove(tmp)))
	}
	return dir.Rename(tmp, name)
}

// WriteNew writes v as JSON to a file whose bytes are on the disk when it returns. Direct I/O does
// that without a flush. JSON may end in blanks, which fill the last sector.
func (w RecordWriter) WriteNew(dir folder.Dir, name string, v any) error {
	raw, err := json.Marshal(v)
	if err != nil {
		return err
	}
	flags := os.O_CREATE | os.O_TRUNC | os.O_WRONLY
	if w.Direct {
		flags |= unix.O_DIRECT
	}
	f, err := dir.OpenFile(name, flags)
	if err != nil {
		return err
	}
	buf := aligned((len(raw) + Sector) / Sector * Sector)
	n := copy(buf, raw)
	for i := range buf[n:] {
		buf[n+i] = ' '
	}
	buf[len(buf)-1] = '\n'
	_, err = f.Write(buf)
	if err == nil && w.Direct {
		err = w.Layout.Settle(f)
	} else if err == nil {
		err = f.Sync()
	}
	return errors.Join(err, f.Close())
}

// aligned returns a buffer that begins at a multiple of the sector, as direct I/O requires.
func aligned(size int) []byte {
	buf := make([]byte, size+Sector)
	skip := int(-uintptr(unsafe.Pointer(&buf[0])) & (Sector - 1))
	return buf[skip : skip+size : skip+size]
}

// DirectIO reports whether direct I/O works in root. It tests this by reading a file there.
func DirectIO(root folder.Dir, file string) (bool, error) {
	f, err := root.OpenFile(file, os.O_RDONLY|unix.O_DIRECT)
	if errors.Is(err, unix.EINVAL) {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	defer f.Close()
	_, err = f.ReadAt(aligned(Sector), 0)
	if errors.Is(err, unix.EINVAL) {
		return false, nil
	}
	if err != nil && !errors.Is(err, io.EOF) {
		return false, err
	}
	return true, nil
}

// MaxRecord is the largest record that is read, in bytes.
const MaxRecord = 4 << 20

// ReadRecord reads a record of dir into v.
func ReadRecord(dir folder.Dir, name string, v any) error {
	f, err := dir.OpenFile(name, os.O_RDONLY|unix.O_NOFOLLOW|unix.O_NONBLOCK)
	if err != nil {
		return err
	}
	defer f.Close()
	var raw bytes.Buffer
	raw.Grow(2 * Sector) // most records fill one sector; io.ReadAll would read it in eight parts
	if _, err := raw.ReadFrom(io.LimitReader(f, MaxRecord)); err != nil {
		return err
	}
	if err := dataset.DecodeFormat(bytes.TrimSpace(raw.Bytes()), name, dataset.RecordFormat, v); err != nil {
		if errors.Is(err, dataset.ErrUnsupported) {
			return err
		}
		return fmt.Errorf("%s: %w", name, err)
	}
	return nil
}

// CheckFormat fails with dataset.ErrUnsupported if the record of the dataset in dir has a later format. A record that
// is absent or damaged is no error.
func CheckFormat(dir folder.Dir) error {
	if err := ReadRecord(dir, RecordFile, &struct{}{}); errors.Is(err, dataset.ErrUnsupported) {
		return fmt.Errorf("%s: %w", dir.Name(), err)
	}
	return nil
}

// DatasetRecord reads the record of the dataset in dir, and fails if it is the record of a dataset other than id.
func DatasetRecord(dir folder.Dir, id uuid.UUID) (*dataset.Dataset, error) {
	d := new(dataset.Dataset)
	if err := ReadRecord(dir, RecordFile, d); err != nil {
		return nil, err
	}
	if d.ID != id {
		return nil, fmt.Errorf("%s belongs to dataset %s", RecordFile, d.ID)
	}
	return d, nil
}

// NoHeadError returns the error for a copy that is used as a dataset.
func NoHeadError(pool string, id uuid.UUID) error {
	return dataset.Errorf(dataset.ErrConflict, "pool %s has only a copy of dataset %s: its home is elsewhere",
		pool, id)
}
