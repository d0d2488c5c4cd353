package loop

import (
	"encoding/json"
	"errors"
	"io"
	"os"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/google/uuid"

	"github.com/droverhq/drover/backends/shelf"
	"github.com/droverhq/drover/internal/safefile"
)

// recordSuffix ends the names of records.
const recordSuffix = ".json"

// snapshotRecord returns the name of the record of a snapshot.
func snapshotRecord(id uuid.UUID) string { return id.String() + recordSuffix }

// sector is the unit of direct I/O on all disks and loop devices in use, in bytes.
const sector = 4096

// recordWriter writes records. When a write returns, the bytes of the record are on the disk. If direct I/O works in
// the pool, this takes no flush.
type recordWriter struct {
	Layout layout
	Direct bool // direct I/O works in the pool
}

// Write replaces the file name in dir by v as JSON. After a power cut the file has either the old
// or the new content, because the bytes reach the disk before the name does.
func (w recordWriter) Write(dir safefile.Dir, name string, v any) error {
	tmp := shelf.Temp + name
	if err := w.WriteNew(dir, tmp, v); err != nil {
		return errors.Join(err, safefile.AbsentIsFine(dir.Remove(tmp)))
	}
	return dir.Rename(tmp, name)
}

// WriteNew writes v as JSON to a file whose bytes are on the disk when it returns. Direct I/O does
// that without a flush. JSON may end in blanks, which fill the last sector.
func (w recordWriter) WriteNew(dir safefile.Dir, name string, v any) error {
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
	buf := aligned((len(raw) + sector) / sector * sector)
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
	buf := make([]byte, size+sector)
	skip := int(-uintptr(unsafe.Pointer(&buf[0])) & (sector - 1))
	return buf[skip : skip+size : skip+size]
}

// directIO reports whether direct I/O works in root. It tests this by reading a file there.
func directIO(root safefile.Dir, file string) (bool, error) {
	f, err := root.OpenFile(file, os.O_RDONLY|unix.O_DIRECT)
	if errors.Is(err, unix.EINVAL) {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	defer f.Close()
	_, err = f.ReadAt(aligned(sector), 0)
	if errors.Is(err, unix.EINVAL) {
		return false, nil
	}
	if err != nil && !errors.Is(err, io.EOF) {
		return false, err
	}
	return true, nil
}
