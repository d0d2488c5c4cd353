package shelf

import (
	"sync"

	"github.com/google/uuid"
	"golang.org/x/sys/unix"

	"github.com/droverhq/drover/internal/safefile"
)

// maxFormats bounds the memory of formats, because entries of deleted datasets stay.
const maxFormats = 1 << 18

// formats remembers the records that checkFormat has accepted. It reads a record again only if the file has changed.
// Without this cache, searching for the dataset takes a twelfth of the CPU time of a create in backend loop. The zero
// value is ready. Safe for concurrent use.
type formats struct {
	mu    sync.Mutex
	known map[uuid.UUID]version // of records whose format is known
}

// version identifies the content of a record file. Each change of a record makes a new file, which has another inode
// number or another time.
type version struct {
	inode   uint64
	changed unix.Timespec
}

// check does the work of checkFormat for the record in a folder.
func (c *formats) check(f *Folder) error {
	st, err := f.Lstat(RecordFile)
	if err != nil || !safefile.IsRegular(st) {
		return f.checkFormat()
	}
	current := version{st.Ino, st.Ctim}
	c.mu.Lock()
	checked, ok := c.known[f.ID]
	c.mu.Unlock()
	if ok && checked == current {
		return nil
	}
	if err := f.checkFormat(); err != nil {
		return err
	}
	c.remember(f.ID, current)
	return nil
}

// Wrote remembers that the backend wrote the record in a folder, so that the next search does not read it. With direct
// I/O, reading the record would cost a disk access.
func (s *Shelf) Wrote(f *Folder) {
	if st, err := f.Lstat(RecordFile); err == nil {
		s.formats.remember(f.ID, version{st.Ino, st.Ctim})
	}
}

func (c *formats) remember(id uuid.UUID, current version) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.known == nil || len(c.known) >= maxFormats {
		c.known = map[uuid.UUID]version{}
	}
	c.known[id] = current
}
