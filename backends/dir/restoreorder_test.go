package dir_test

import (
	"bytes"
	"encoding/binary"
	"slices"
	"testing"

	"github.com/google/uuid"
	"golang.org/x/sys/unix"

	"github.com/droverhq/drover/dataset"
)

// A restore records the kept head before another tree becomes the head. Otherwise a crash between the two would let
// Reap remove the only copy of the kept head.
func TestRestoreRecordsWhatItKeepsFirst(t *testing.T) {
	b := newBench(t)
	s := dataset.Snapshot{ID: uuid.New(), Dataset: b.d.ID}
	b.ok(b.pool.Snapshot(t.Context(), s, nil))
	fd, err := unix.InotifyInit1(unix.IN_NONBLOCK | unix.IN_CLOEXEC)
	b.ok(err)
	defer unix.Close(fd)
	_, err = unix.InotifyAddWatch(fd, b.in(), unix.IN_MOVED_TO)
	b.ok(err)
	keep := dataset.Snapshot{ID: uuid.New(), Dataset: b.d.ID}
	b.ok(b.pool.Restore(t.Context(), b.d.ID, s.ID, keep, nil))
	buf := make([]byte, 64<<10)
	n, err := unix.Read(fd, buf)
	b.ok(err)
	var named []string
	for buf = buf[:n]; len(buf) > 0; { // inotify(7)
		size := unix.SizeofInotifyEvent + int(binary.NativeEndian.Uint32(buf[12:]))
		named = append(named, string(bytes.TrimRight(buf[unix.SizeofInotifyEvent:size], "\x00")))
		buf = buf[size:]
	}
	want := []string{"head-" + keep.ID.String(), "snapshot-" + keep.ID.String() + ".json", "current.json"}
	if !slices.Equal(named, want) {
		t.Errorf("named %v, want %v", named, want)
	}
}
