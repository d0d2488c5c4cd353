package bolt_test

import (
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"

	"github.com/droverhq/drover/control/store"
	"github.com/droverhq/drover/control/store/bolt"
	"github.com/droverhq/drover/internal/clock"
)

// churned makes a store of 70 MiB in which only some small keys are left, and closes it. It returns these keys and
// the index of the last change.
func churned(t *testing.T, path string) (left []store.Entry, last uint64) {
	t.Helper()
	s := open(t, path)
	noise := rand.NewChaCha8([32]byte{})
	value := make([]byte, 100<<10)
	for i := range 700 {
		_, _ = noise.Read(value) // which never fails
		put(t, s, store.Write{Key: fmt.Sprintf("operations/%04d", i), Value: value}, set(fmt.Sprintf("datasets/%04d", i), fmt.Sprint("small ", i)))
	}
	for i := range 700 {
		last = put(t, s, store.Write{Key: fmt.Sprintf("operations/%04d", i), Delete: true})
	}
	left = all(t, s)
	shut(t, s)
	if info, err := os.Stat(path); err != nil || info.Size() < 64<<20 {
		t.Fatalf("%d bytes, %v", info.Size(), err)
	}
	return left, last
}

// A file that is mostly free is compacted at the next start, and has the same contents at the same index.
func TestCompaction(t *testing.T) {
	path := pathIn(t.TempDir())
	want, last := churned(t, path)
	if err := os.WriteFile(path+".compact", []byte("left by a crash"), 0o600); err != nil {
		t.Fatal(err)
	}
	s := open(t, path)
	done := s.Compaction()
	if info, err := os.Stat(path); err != nil || done.Err != nil || done.From < 64<<20 || done.To > 8<<20 || info.Size() != done.To || info.Mode() != 0o600 {
		t.Errorf("%+v, %+v, %v", done, info, err)
	}
	if diff := cmp.Diff(want, all(t, s)); diff != "" {
		t.Error(diff)
	}
	if index := put(t, s, set("next", "x")); index != last+1 {
		t.Errorf("index %d after %d", index, last)
	}
	if st := s.Stats(); st.Entries != int64(len(want))+1 || st.ReserveBytes == 0 {
		t.Errorf("%+v", st)
	}
	want = all(t, s)
	shut(t, s)
	if left, err := filepath.Glob(path + "?*"); err != nil || len(left) > 0 {
		t.Errorf("left beside it: %v, %v", left, err)
	}
	s = open(t, path)
	if done := s.Compaction(); done.From != 0 {
		t.Errorf("again: %+v", done)
	}
	if diff := cmp.Diff(want, all(t, s)); diff != "" {
		t.Error(diff)
	}
}

// A file that cannot be compacted is used as it is, and the store logs why.
func TestCompactionFails(t *testing.T) {
	path := pathIn(t.TempDir())
	want, _ := churned(t, path)
	if err := os.MkdirAll(path+".compact/in the way", 0o700); err != nil {
		t.Fatal(err)
	}
	s := open(t, path)
	if done := s.Compaction(); done.Err == nil || done.From != done.To {
		t.Errorf("%+v", done)
	}
	if diff := cmp.Diff(want, all(t, s)); diff != "" {
		t.Error(diff)
	}
	put(t, s, set("next", "x"))
}

// A process that waits for the lock of a file which is replaced meanwhile opens the new file. Anything it wrote to
// the old one would be lost.
func TestOpenWhileReplaced(t *testing.T) {
	dir := t.TempDir()
	path := pathIn(dir)
	s := open(t, path)
	put(t, s, set("old", "x"))
	shut(t, s)
	other := open(t, filepath.Join(dir, "other.db"))
	put(t, other, set("new", "x"))
	shut(t, other)
	held, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	if err := unix.Flock(int(held.Fd()), unix.LOCK_EX); err != nil {
		t.Fatal(err)
	}
	// The process tries again as soon as it reads this clock.
	waits := &waiting{Fake: newClock(), begun: make(chan struct{}, 100)}
	opened := make(chan *bolt.Store, 1)
	go func() {
		s, err := bolt.Open(t.Context(), path, bolt.Options{Clock: waits, LockWait: time.Hour})
		if err != nil {
			t.Error(err)
		}
		opened <- s
	}()
	<-waits.begun
	if err := os.Rename(filepath.Join(dir, "other.db"), path); err != nil {
		t.Fatal(err)
	}
	held.Close()
	waits.Advance(time.Second)
	s = <-opened
	if s == nil {
		return
	}
	defer shut(t, s)
	if _, err := s.Get(t.Context(), "new"); err != nil {
		t.Errorf("the file that was replaced is open: %v", err)
	}
}

// waiting signals when somebody starts to wait.
type waiting struct {
	*clock.Fake
	begun chan struct{}
}

func (w *waiting) After(d time.Duration) <-chan time.Time {
	c := w.Fake.After(d)
	w.begun <- struct{}{}
	return c
}
