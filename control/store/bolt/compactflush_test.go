package bolt

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/droverhq/drover/control/store"
)

// A compacted copy whose flush failed does not replace the store. What is acknowledged after that is there at the
// next start.
func TestI2CompactedCopyThatWasNotFlushed(t *testing.T) {
	path := filepath.Join(t.TempDir(), "store.db")
	begin := func() *Store {
		t.Helper()
		s, err := Open(t.Context(), path, still)
		if err != nil {
			t.Fatal(err)
		}
		return s
	}
	txn := func(s *Store, w ...store.Write) {
		t.Helper()
		if _, err := s.Txn(t.Context(), nil, w); err != nil {
			t.Fatal(err)
		}
	}
	end := func(s *Store) {
		t.Helper()
		if err := s.Close(); err != nil {
			t.Fatal(err)
		}
	}
	s := begin()
	noise, value := rand.NewChaCha8([32]byte{}), make([]byte, store.MaxValue)
	_, _ = noise.Read(value) // which never fails
	const keys = 700
	for i := range keys {
		txn(s, store.Write{Key: fmt.Sprint("large/", i), Value: value[:100<<10]})
	}
	for i := range keys {
		txn(s, store.Write{Key: fmt.Sprint("large/", i), Delete: true})
	}
	end(s)
	before, err := os.Stat(path)
	if err != nil {
		t.Fatal(err)
	}

	failed := 0
	syncCopy = func(*os.File) error { failed++; return unix.EIO }
	t.Cleanup(func() { syncCopy = (*os.File).Sync })
	s = begin()
	now, err := os.Stat(path)
	if err != nil || failed != 1 || !errors.Is(s.Compaction().Err, unix.EIO) || !os.SameFile(before, now) {
		t.Errorf("%d flushes failed, %+v, the same file: %t, %v", failed, s.Compaction(), os.SameFile(before, now), err)
	}
	txn(s, store.Write{Key: "next", Value: []byte("x")})
	end(s)

	syncCopy = (*os.File).Sync
	s = begin()
	defer end(s)
	if _, err := s.Get(t.Context(), "next"); err != nil {
		t.Errorf("what was acknowledged: %v", err)
	}
	if done := s.Compaction(); done.Err != nil || done.From == 0 {
		t.Errorf("the next start does not compact it: %+v", done)
	}
}
