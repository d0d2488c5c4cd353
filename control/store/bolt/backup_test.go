package bolt_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/uuid"

	"github.com/droverhq/drover/control/store"
	"github.com/droverhq/drover/control/store/bolt"
	"github.com/droverhq/drover/internal/scratch"
	"github.com/droverhq/drover/test/assert"
	"github.com/droverhq/drover/test/fakes"
	"github.com/droverhq/drover/test/require"
)

// A backup that is taken while callers write is the state of the store at one moment: it can be opened, and has
// everything that was acknowledged before the backup began.
func TestBackupWhileWriting(t *testing.T) {
	dir := t.TempDir()
	s := open(t, pathIn(dir))
	ctx, cancel := context.WithCancel(t.Context())
	var wg sync.WaitGroup
	var mu sync.Mutex
	var acked []string
	many := make(chan struct{})
	wg.Go(func() {
		write(ctx, s, "w", func(key string) {
			mu.Lock()
			defer mu.Unlock()
			if acked = append(acked, key); len(acked) == 200 {
				close(many)
			}
		})
	})
	<-many
	for n := range 3 {
		mu.Lock()
		before := append([]string(nil), acked...)
		mu.Unlock()
		path := filepath.Join(dir, fmt.Sprint("backup", n))
		f, err := os.Create(path)
		require.NoError(t, err)
		require.NoError(t, s.Backup(t.Context(), f))
		require.NoError(t, f.Close())
		whole(t, path, before)
	}
	cancel()
	wg.Wait()
	left, err := filepath.Glob(filepath.Join(dir, ".*"))
	if err != nil || len(left) != 0 {
		t.Errorf("left behind: %v, %v", left, err)
	}
}

// A reader of the backup that accepts no bytes blocks no writers: changes continue, and the pages that they free are
// used again.
func TestSlowBackupHoldsUpNothing(t *testing.T) {
	s := open(t, pathIn(t.TempDir()))
	for n := range 200 {
		put(t, s, set(fmt.Sprint("k", n), strings.Repeat("x", 1000)))
	}
	want := all(t, s)
	r, w := io.Pipe()
	done := make(chan error, 1)
	go func() {
		err := s.Backup(t.Context(), w)
		done <- errors.Join(err, w.Close())
	}()
	first := make([]byte, 1)
	_, err := io.ReadFull(r, first)
	require.NoError(t, err)
	size := s.Stats().FileBytes
	for n := range 3000 {
		put(t, s, set(fmt.Sprint("k", n%200), strings.Repeat("y", 1000)))
	}
	if grown := s.Stats().FileBytes; grown != size {
		t.Errorf("the file grew from %d to %d bytes under a slow backup", size, grown)
	}
	rest, err := io.ReadAll(r)
	require.NoError(t, err)
	require.NoError(t, <-done)
	path := filepath.Join(t.TempDir(), "backup")
	require.NoError(t, os.WriteFile(path, append(first, rest...), 0o600))
	if diff := cmp.Diff(want, all(t, open(t, path))); diff != "" {
		t.Error(diff)
	}
}

type brokenWriter struct{}

func (brokenWriter) Write([]byte) (int, error) { return 0, errors.New("pipe broke") }

func TestBackupFails(t *testing.T) {
	s := open(t, pathIn(t.TempDir()))
	put(t, s, set("a", "x"))
	if err := s.Backup(t.Context(), brokenWriter{}); err == nil || !strings.Contains(err.Error(), "pipe broke") {
		t.Error(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	assert.ErrorIs(t, s.Backup(ctx, io.Discard), context.Canceled)
	shut(t, s)
	if err := s.Backup(t.Context(), io.Discard); err == nil {
		t.Error("a closed store was backed up")
	}
}

// On a filesystem without O_TMPFILE the file is created with a name, which is then removed.
func TestBackupOnOverlay(t *testing.T) {
	base := tmpfs(t, 64<<20)
	for _, d := range []string{"lower", "upper", "work", "mnt"} {
		require.NoError(t, os.Mkdir(filepath.Join(base, d), 0o700))
	}
	mnt := filepath.Join(base, "mnt")
	scratch.Run(t, "mount", "-t", "overlay", "overlay", "-o",
		fmt.Sprintf("lowerdir=%s/lower,upperdir=%s/upper,workdir=%s/work", base, base, base), mnt)
	t.Cleanup(func() { scratch.Run(t, "umount", mnt) })
	s, err := bolt.Open(t.Context(), pathIn(mnt), bolt.Options{Clock: newClock()})
	require.NoError(t, err)
	defer shut(t, s)
	put(t, s, set("a", "x"))
	var b bytes.Buffer
	if err := s.Backup(t.Context(), &b); err != nil || b.Len() == 0 {
		t.Errorf("%d bytes, %v", b.Len(), err)
	}
}

// written returns how many bytes this process has written (wchar of proc(5)).
func written(t *testing.T) (n int) {
	t.Helper()
	b, err := os.ReadFile("/proc/self/io")
	require.NoError(t, err)
	_, rest, _ := strings.Cut(string(b), "wchar:")
	_, err = fmt.Sscan(rest, &n)
	require.NoError(t, err)
	return n
}

// costOfChange returns how many bytes one change of one of n datasets writes.
func costOfChange(t *testing.T, s *bolt.Store, n int) int {
	t.Helper()
	const changes = 200
	before := written(t)
	for i := range changes {
		put(t, s, store.Write{Key: fmt.Sprintf("datasets/%06d", i*7919%n), Value: make([]byte, 900)})
	}
	return (written(t) - before) / changes
}

// D2: with 40,000 datasets, and after they were removed, a change costs the same as with 1,000. That would not hold
// if a list of free pages, or one value with everything, were written with every commit.
func TestCostOfOneChange(t *testing.T) {
	const few, many = 1000, 40_000
	s := open(t, pathIn(t.TempDir()))
	fill := func(from, to int, remove bool) {
		t.Helper()
		for n := from; n < to; n += 100 {
			var writes []store.Write
			for i := n; i < n+100; i++ {
				w := store.Write{Key: fmt.Sprintf("datasets/%06d", i), Delete: remove}
				if !remove {
					w.Value = make([]byte, 900)
				}
				writes = append(writes, w)
			}
			put(t, s, writes...)
		}
	}
	fill(0, few, false)
	base := costOfChange(t, s, few)
	fill(few, many, false)
	if cost := costOfChange(t, s, many); cost > 2*base {
		t.Errorf("a change writes %d bytes among %d datasets, %d among %d", cost, many, base, few)
	}
	fill(few, many, true)
	if cost := costOfChange(t, s, few); cost > 2*base {
		t.Errorf("a change writes %d bytes after %d datasets have gone, %d before they came", cost, many-few, base)
	}
	t.Logf("%d bytes a change", base)
}

// Opening reads every page of the file and keeps none of them mapped in, because idle memory must not grow with the
// store.
func TestOpenLeavesNoMemory(t *testing.T) {
	path := pathIn(t.TempDir())
	s := open(t, path)
	for n := range 30 {
		put(t, s, store.Write{Key: fmt.Sprint("k/", n), Value: make([]byte, store.MaxValue)})
		for i := range 100 {
			put(t, s, set(fmt.Sprintf("small/%d/%d", n, i), strings.Repeat("x", 900)))
		}
	}
	shut(t, s)
	s = open(t, path)
	size := int(s.Stats().FileBytes >> 10)
	if rss := resident(t, path); rss > size/8 { // some pages next to those that were needed
		t.Errorf("%d KiB of %d are resident", rss, size)
	}
	all(t, s)
	if rss := resident(t, path); rss < size/4 {
		t.Errorf("after everything was read, %d KiB are resident: this test looks at the wrong mapping", rss)
	}
}

// resident returns how many KiB of a mapped file are in memory for this process (Rss in /proc/self/smaps, proc(5)).
func resident(t *testing.T, path string) (kib int) {
	t.Helper()
	b, err := os.ReadFile("/proc/self/smaps")
	require.NoError(t, err)
	_, mapping, ok := strings.Cut(string(b), path+"\n")
	if !ok {
		t.Fatalf("%s is not mapped", path)
	}
	_, rest, _ := strings.Cut(mapping, "Rss:")
	_, err = fmt.Sscan(rest, &kib)
	require.NoError(t, err)
	return kib
}

func newClock() *fakes.Clock { return fakes.NewClock(time.Date(2026, 11, 20, 8, 0, 0, 0, time.UTC)) }

func pathIn(dir string) string { return filepath.Join(dir, "store.db") }

// open opens a store, which is closed after the test unless the test closes it.
func open(tb testing.TB, path string) *bolt.Store {
	tb.Helper()
	s, err := bolt.Open(tb.Context(), path, bolt.Options{Clock: newClock()})
	require.NoError(tb, err)
	tb.Cleanup(func() { shut(tb, s) })
	return s
}

func shut(tb testing.TB, s *bolt.Store) {
	tb.Helper()
	assert.NoError(tb, s.Close())
}

func set(key, value string) store.Write { return store.Write{Key: key, Value: []byte(value)} }

func put(tb testing.TB, s *bolt.Store, writes ...store.Write) uint64 {
	tb.Helper()
	index, err := s.Txn(tb.Context(), nil, writes)
	require.NoError(tb, err)
	return index
}

func all(tb testing.TB, s *bolt.Store) []store.Entry {
	tb.Helper()
	list, err := s.List(tb.Context(), "", "", 0)
	require.NoError(tb, err)
	return list
}

// create writes what the creation of a volume writes: a name, a dataset, a lease, and an index by node.
func create(n int) ([]store.Precondition, []store.Write) {
	id := uuid.New().String()
	name := fmt.Sprintf("names/volume-%06d", n)
	return []store.Precondition{{Key: name}, {Key: "datasets/" + id}}, []store.Write{
		{Key: name, Value: []byte(id)},
		{Key: "datasets/" + id, Value: make([]byte, 900)},
		{Key: "leases/" + id, Value: make([]byte, 200)},
		{Key: "home/node/" + id},
	}
}

// remove removes what create wrote. It reads the name to get the ID.
func remove(tb testing.TB, s *bolt.Store, n int) error {
	tb.Helper()
	name := fmt.Sprintf("names/volume-%06d", n)
	e, err := s.Get(tb.Context(), name)
	if err != nil {
		return err
	}
	id := string(e.Value)
	_, err = s.Txn(tb.Context(), []store.Precondition{{Key: name, Index: e.Index}}, []store.Write{
		{Key: name, Delete: true}, {Key: "datasets/" + id, Delete: true},
		{Key: "leases/" + id, Delete: true}, {Key: "home/node/" + id, Delete: true},
	})
	return err
}
