package transfer

import (
	"os"
	"sync"

	"github.com/google/uuid"
	"golang.org/x/sys/unix"

	"github.com/droverhq/drover/internal/linux/reflink"
)

// comparison remembers in what two snapshots differ that were compared last: who sends one asks
// twice, for a plan and for the stream, and to compare the maps of two fragmented images takes
// tenths of a second (1.2 µs an extent each on XFS). Safe for concurrent use.
type comparison struct {
	mu     sync.Mutex
	Of     pair
	Ranges []reflink.Range
}

// pair is two images that nobody writes to, of files of their own: in subvolumes all would
// have one inode number, and the times of what they were cloned from.
type pair struct {
	base, Snapshot uuid.UUID
	old, now       version
}

// version tells an image from another one that was made by its name, and from one that has
// its inode's number after it.
type version struct {
	inode   uint64
	size    int64
	changed unix.Timespec
}

func versionOf(f *os.File) (version, error) {
	var st unix.Stat_t
	err := unix.Fstat(int(f.Fd()), &st)
	return version{st.Ino, st.Size, st.Ctim}, err
}

// changed is reflink.Changed of the images of two snapshots.
func (l *comparison) changed(base, snapshot uuid.UUID, old, now *os.File) ([]reflink.Range, error) {
	of := pair{base: base, Snapshot: snapshot}
	var err error
	if of.old, err = versionOf(old); err != nil {
		return nil, err
	}
	if of.now, err = versionOf(now); err != nil {
		return nil, err
	}
	l.mu.Lock()
	known, ranges := l.Of == of, l.Ranges
	l.mu.Unlock()
	if known {
		return ranges, nil
	}
	if ranges, err = reflink.Changed(old, now); err != nil {
		return nil, err
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.Of, l.Ranges = of, ranges
	return ranges, nil
}

// forget gives the memory back.
func (l *comparison) forget() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.Of, l.Ranges = pair{}, nil
}
