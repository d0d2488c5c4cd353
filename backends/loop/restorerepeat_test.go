package loop

import (
	"bytes"
	"encoding/binary"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"github.com/google/uuid"
	"golang.org/x/sys/unix"

	"github.com/droverhq/drover/dataset"
)

// cutShort runs an operation up to a step and leaves everything as it is at that step.
func (f *fixture) cutShort(do func() error, step int) {
	f.Helper()
	type cut struct{}
	n := 0
	f.backend.step = func(string) {
		if n == step {
			panic(cut{})
		}
		n++
	}
	defer func() {
		f.backend.step = func(string) {}
		if p := recover(); p != (cut{}) {
			f.Fatalf("step %d: %v", step, p)
		}
	}()
	f.must(do())
}

// A head gets its name once it is whole, so a dataset with a head is never made again. A head is replaced in one
// step.
func TestHeadIsNamedLast(t *testing.T) {
	onPools(t, func(f *fixture) {
		c := f.stage(xfs)
		made := f.watch(func() {
			_, err := f.Create(f.Context(), c.Other)
			f.must(err)
		}, "incoming", c.Other.ID)
		clone := newDataset(xfs)
		clone.Size = c.Dataset.Size + 64*dataset.MiB // a clone that does not grow is made in one step
		cloned := f.watch(func() { f.clone(clone, at(c.Snapshot)) }, "incoming", clone.ID)
		for what, events := range map[string][]event{"create": made, "clone": cloned} {
			if !slices.Contains(events, event{f.headName(), unix.IN_MOVED_TO}) {
				f.Errorf("%s: the head got no name: %v", what, events)
			}
			if slices.Contains(events, event{f.headName(), unix.IN_CREATE}) {
				f.Errorf("%s: the head had its name from the start: %v", what, events)
			}
		}
		restored := f.watch(func() {
			f.must(f.Restore(f.Context(), c.Dataset.ID, c.Snapshot.ID, c.Keep, nil))
		}, "datasets", c.Dataset.ID)
		if !slices.Contains(restored, event{f.headName(), unix.IN_MOVED_TO}) ||
			slices.Contains(restored, event{f.headName(), unix.IN_DELETE}) {
			f.Errorf("restore: the head was not replaced in one step: %v", restored)
		}
	})
}

// headName is the entry of a dataset's directory that contains its head.
func (f *fixture) headName() string {
	first, _, _ := bytes.Cut([]byte(f.layout.Image(headItem)), []byte("/"))
	return string(first)
}

// event is a change of a name in a directory: inotify(7).
type event struct {
	name string
	mask uint32
}

// watch returns the changes in a dataset's directory while act runs, as soon as the directory exists.
func (f *fixture) watch(act func(), area string, id uuid.UUID) (events []event) {
	f.Helper()
	fd, err := unix.InotifyInit1(unix.IN_NONBLOCK | unix.IN_CLOEXEC)
	f.must(err)
	defer unix.Close(fd)
	watched := false
	begin := func(string) {
		if !watched {
			_, err := unix.InotifyAddWatch(fd, filepath.Join(f.shelf.Path(), area, id.String()),
				unix.IN_CREATE|unix.IN_MOVED_TO|unix.IN_DELETE)
			f.must(err)
			watched = true
		}
	}
	f.backend.step = begin
	defer func() { f.backend.step = func(string) {} }()
	act()
	buf := make([]byte, 64<<10)
	n, err := unix.Read(fd, buf)
	f.must(err)
	for buf = buf[:n]; len(buf) > 0; {
		size := unix.SizeofInotifyEvent + int(binary.NativeEndian.Uint32(buf[12:]))
		name := string(bytes.TrimRight(buf[unix.SizeofInotifyEvent:size], "\x00"))
		events = append(events, event{name, binary.NativeEndian.Uint32(buf[4:]) &^ unix.IN_ISDIR})
		buf = buf[size:]
	}
	return events
}

// lacksSnapshot checks that a removed snapshot is absent.
func (f *fixture) lacksSnapshot(s dataset.Snapshot) {
	f.Helper()
	e, err := f.Stat(f.Context(), s.Dataset)
	f.must(err)
	if slices.ContainsFunc(e.Snapshots, func(o dataset.Snapshot) bool { return o.ID == s.ID }) {
		f.Errorf("snapshot %s is there", s.ID)
	}
}

// A restore that was interrupted at any step can be repeated after the volume was used. Bytes that were written
// meanwhile are in the head or in the snapshot that keeps it, and a snapshot that was listed as kept does not change.
func TestRestoreGoesOnAfterWrites(t *testing.T) {
	onPools(t, func(f *fixture) {
		c := f.stage(xfs)
		restore := func() error { return f.Restore(f.Context(), c.Dataset.ID, c.Snapshot.ID, c.Keep, nil) }
		steps := 0
		f.backend.step = func(string) { steps++ }
		f.must(restore())
		swapped := 0
		for step := range steps {
			f.backend.step = func(string) {}
			c = f.stage(xfs)
			f.cutShort(restore, step)
			done := f.get(c.Dataset.ID, "a") == "one"
			f.hasSnapshot(c.Keep, "two", done)
			if e, err := f.Stat(t.Context(), c.Dataset.ID); err != nil || len(e.Snapshots) > 1 && !done {
				t.Errorf("step %d: %v is shown before it was kept (%v)", step, e.Snapshots, err)
			}
			f.put(c.Dataset.ID, "a", "acknowledged")
			f.must(restore())
			head, kept := "one", "acknowledged"
			if done {
				swapped++
				head, kept = kept, "two"
			}
			if got := f.get(c.Dataset.ID, "a"); got != head {
				t.Errorf("step %d: the head has %q instead of %q", step, got, head)
			}
			f.hasSnapshot(c.Keep, kept, true)
			image, err := f.folderOf(c.Dataset.ID).OpenFile(f.layout.Image(c.Keep.ID.String()), os.O_RDWR)
			if err == nil {
				f.must(image.Close())
			}
			if !f.layout.Costly() && !errors.Is(err, unix.EROFS) {
				t.Errorf("step %d: what is kept can be written to (%v)", step, err)
			}
			f.settled()
		}
		if swapped == 0 || swapped == steps {
			t.Errorf("%d of %d steps are behind the exchange", swapped, steps)
		}
	})
}
