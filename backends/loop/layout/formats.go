package layout

import (
	"sync"

	"github.com/google/uuid"
	"golang.org/x/sys/unix"

	"github.com/droverhq/drover/backends/loop/folder"
)

// maxFormats bounds the memory of Formats, because entries of deleted datasets stay.
const maxFormats = 1 << 18

// Formats remembers the records that CheckFormat has accepted. It reads a record again only if the file has changed.
// Without this cache, searching for the dataset takes a twelfth of the CPU time of a create. The zero value is ready.
// Safe for concurrent use.
type Formats struct {
	mu    sync.Mutex
	known map[uuid.UUID]version // of records whose format is known
}

// version identifies the content of a record file. Each change of a record makes a new file, which has another inode
// number or another time.
type version struct {
	inode     uint64
	sec, nsec int64 // when the inode changed
}

// Check does the work of CheckFormat for the record of dataset id in dir.
func (f *Formats) Check(dir folder.Dir, id uuid.UUID) error {
	st, err := dir.Lstat(RecordFile)
	if err != nil || st.Mode&unix.S_IFMT != unix.S_IFREG {
		return CheckFormat(dir)
	}
	current := version{st.Ino, st.Ctim.Sec, st.Ctim.Nsec}
	f.mu.Lock()
	checked, ok := f.known[id]
	f.mu.Unlock()
	if ok && checked == current {
		return nil
	}
	if err := CheckFormat(dir); err != nil {
		return err
	}
	f.remember(id, current)
	return nil
}

// Wrote remembers that this process wrote the record of dataset id in dir, so that the next Check does not read it.
// With direct I/O, reading the record would cost a disk access.
func (f *Formats) Wrote(dir folder.Dir, id uuid.UUID) {
	if st, err := dir.Lstat(RecordFile); err == nil {
		f.remember(id, version{st.Ino, st.Ctim.Sec, st.Ctim.Nsec})
	}
}

func (f *Formats) remember(id uuid.UUID, current version) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.known == nil || len(f.known) >= maxFormats {
		f.known = map[uuid.UUID]version{}
	}
	f.known[id] = current
}
