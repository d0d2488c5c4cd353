package loop

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

	"github.com/droverhq/drover/dataset"
)

const (
	recordFile   = "record.json"
	recordSuffix = ".json"
	tmpPrefix    = "tmp-"
)

func snapshotRecord(id uuid.UUID) string { return id.String() + recordSuffix }

// sector is the unit of direct I/O, on every disk and loop device that is in use.
const sector = 4096

// writeRecord puts v as JSON into a file of dir, in place of what was there. After a
// power cut the file is the old one or the new one, whole, because the bytes went
// to the disk before the name did.
func (p *Pool) writeRecord(dir folder, name string, v any) error {
	tmp := tmpPrefix + name
	if err := p.writeOut(dir, tmp, v); err != nil {
		return errors.Join(err, absentIsFine(dir.remove(tmp)))
	}
	return dir.rename(tmp, name)
}

// writeOut makes a file of v as JSON with its bytes on the disk: by direct I/O, which
// costs no flush. JSON may end in blanks, which fill the last sector.
func (p *Pool) writeOut(dir folder, name string, v any) error {
	raw, err := json.Marshal(v)
	if err != nil {
		return err
	}
	flags := os.O_CREATE | os.O_TRUNC | os.O_WRONLY
	if p.direct {
		flags |= unix.O_DIRECT
	}
	f, err := dir.openFile(name, flags)
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
	if err == nil && p.direct {
		err = p.layout.settle(f)
	} else if err == nil {
		err = f.Sync()
	}
	return errors.Join(err, f.Close())
}

// aligned returns a buffer that begins at a multiple of the sector, as direct I/O wants.
func aligned(size int) []byte {
	buf := make([]byte, size+sector)
	skip := int(-uintptr(unsafe.Pointer(&buf[0])) & (sector - 1))
	return buf[skip : skip+size : skip+size]
}

// directIO tells whether files of the pool can be read past the page cache, by trying.
func directIO(root folder) (bool, error) {
	f, err := root.openFile(identityFile, os.O_RDONLY|unix.O_DIRECT)
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

// maxRecord bounds what is read as a record, in bytes.
const maxRecord = 4 << 20

func readRecord(dir folder, name string, v any) error {
	f, err := dir.openFile(name, os.O_RDONLY|unix.O_NOFOLLOW|unix.O_NONBLOCK)
	if err != nil {
		return err
	}
	defer f.Close()
	raw, err := io.ReadAll(io.LimitReader(f, maxRecord))
	if err != nil {
		return err
	}
	if err := json.Unmarshal(bytes.TrimSpace(raw), v); err != nil {
		return fmt.Errorf("%s: %w", name, err)
	}
	return nil
}

// datasetRecord reads the record of dataset id and checks that it is its own.
func datasetRecord(dir folder, id uuid.UUID) (*dataset.Dataset, error) {
	d := new(dataset.Dataset)
	if err := readRecord(dir, recordFile, d); err != nil {
		return nil, err
	}
	if d.ID != id {
		return nil, fmt.Errorf("%s is that of dataset %s", recordFile, d.ID)
	}
	return d, nil
}
