package bolt

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/fnv"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"go.etcd.io/bbolt"

	"github.com/droverhq/drover/control/store"
	"github.com/droverhq/drover/dataset"
	"github.com/droverhq/drover/internal/clock"
	"github.com/droverhq/drover/internal/durable"
	"github.com/droverhq/drover/test/assert"
	"github.com/droverhq/drover/test/fakes"
	"github.com/droverhq/drover/test/require"
)

var still = Options{Clock: fakes.NewClock(time.Date(2026, 11, 20, 8, 0, 0, 0, time.UTC))}

// sample returns the bytes of a store of n entries, with branches, overflow pages, free pages and a bound key.
func sample(tb testing.TB, n int) []byte {
	tb.Helper()
	ctx := context.Background()
	path := filepath.Join(tb.TempDir(), "sample.db")
	s, err := Open(ctx, path, still)
	require.NoError(tb, err)
	id, err := s.Session(ctx, time.Hour)
	require.NoError(tb, err)
	for i := range n {
		writes := []store.Write{{Key: fmt.Sprintf("k/%04d", i), Value: bytes.Repeat([]byte{byte(i)}, i*37%9000)}}
		if i%5 == 0 {
			writes = append(writes, store.Write{Key: fmt.Sprintf("live/%d", i), Session: id})
		}
		if i%7 == 0 && i > 0 {
			writes = append(writes, store.Write{Key: fmt.Sprintf("k/%04d", i-1), Delete: true})
		}
		_, err := s.Txn(ctx, nil, writes)
		require.NoError(tb, err)
	}
	var used int64
	require.NoError(tb, s.db.View(func(tx *bbolt.Tx) error { used = tx.Size(); return nil }))
	require.NoError(tb, s.Close())
	b, err := os.ReadFile(path)
	require.NoError(tb, err)
	return b[:used]
}

// checkFile checks the file at path.
func checkFile(t *testing.T, path string) (contents, error) {
	t.Helper()
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	require.NoError(t, err)
	defer f.Close()
	return (&Store{path: path}).check(t.Context(), f)
}

func TestCheckCountsWhatIsThere(t *testing.T) {
	for _, n := range []int{0, 1, 20, 300} {
		path := filepath.Join(t.TempDir(), "store.db")
		require.NoError(t, os.WriteFile(path, sample(t, n), 0o600))
		got, err := checkFile(t, path)
		require.NoError(t, err)
		want := contents{schema: 1, index: uint64(n)}
		for i := range n {
			want.entries++
			if i%5 == 0 {
				want.entries++
			}
			if i%7 == 0 && i > 0 {
				want.entries--
			}
		}
		if diff := cmp.Diff(want, got, cmp.AllowUnexported(contents{})); diff != "" {
			t.Errorf("%d: %s", n, diff)
		}
	}
}

// Files written by bbolt's own tools have a list of free pages.
func TestCheckReadsAListOfFreePages(t *testing.T) {
	path := filepath.Join(t.TempDir(), "listed.db")
	require.NoError(t, os.WriteFile(path, sample(t, 100), 0o600))
	db, err := bbolt.Open(path, 0o600, &bbolt.Options{PageSize: pageSize})
	require.NoError(t, err)
	require.NoError(t, db.Close())
	got, err := checkFile(t, path)
	if err != nil || got.index != 100 {
		t.Errorf("%+v, %v", got, err)
	}
	listed, err := os.ReadFile(path)
	require.NoError(t, err)
	s, err := Open(t.Context(), path, still)
	require.NoError(t, err)
	_, err = s.Txn(t.Context(), nil, []store.Write{{Key: "a"}})
	assert.NoError(t, err)
	assert.NoError(t, s.Close())

	// A page that is listed as free and also used would be overwritten.
	newest := listed[16:]
	if other := listed[pageSize+16:]; binary.NativeEndian.Uint64(other[48:]) > binary.NativeEndian.Uint64(newest[48:]) {
		newest = other
	}
	root, list := binary.NativeEndian.Uint64(newest[16:]), binary.NativeEndian.Uint64(newest[32:])
	binary.NativeEndian.PutUint64(listed[list*pageSize+16:], root)
	require.NoError(t, os.WriteFile(path, listed, 0o600))
	if _, err := checkFile(t, path); !errors.Is(err, dataset.ErrCorrupt) || !strings.Contains(err.Error(), "freed") {
		t.Errorf("a used page is listed as free: %v", err)
	}
}

// Bytes of the file are changed one at a time, most of them at the beginning of pages, where the structure is. The file
// is refused, or it opens and each read returns the value or an error. Nothing panics, and no value is silently wrong.
func TestFlippedBytes(t *testing.T) {
	good := sample(t, 30)
	values := map[string]string{}
	for _, e := range survivors(t, good) {
		values[e.Key] = string(e.Value)
	}
	tried, refused := 0, 0
	for at := 0; at < len(good); at++ {
		if at%pageSize < 128 && at%17 != 0 || at%pageSize >= 128 && at%1499 != 0 {
			continue
		}
		bad := bytes.Clone(good)
		bad[at] ^= 1 << (at % 8)
		list := survivors(t, bad)
		for _, e := range list {
			if values[e.Key] != string(e.Value) {
				t.Fatalf("byte %d: %s became another value", at, e.Key)
			}
		}
		if tried++; len(list) == 0 {
			refused++
		}
	}
	t.Logf("%d of %d files were refused", refused, tried)
	if refused == 0 {
		t.Error("no change of a byte was found")
	}
}

// survivors writes b to a file, opens the file as a store, and returns its entries, or nil if the store cannot be
// opened.
func survivors(tb testing.TB, b []byte) []store.Entry {
	tb.Helper()
	ctx := context.Background()
	path := filepath.Join(tb.TempDir(), "store.db")
	require.NoError(tb, os.WriteFile(path, b, 0o600))
	defer func() { _ = os.Remove(path) }()
	s, err := Open(ctx, path, still)
	if err != nil {
		// A page that claims to continue for gigabytes exceeds the memory of the child.
		noMemory := strings.Contains(err.Error(), ": check the file: exit status ")
		if k := dataset.KindOf(err); k != dataset.ErrCorrupt && k != dataset.ErrUnsupported && !noMemory {
			tb.Fatal(err)
		}
		return nil
	}
	defer func() {
		assert.NoError(tb, s.Close())
	}()
	var list []store.Entry
	for after := ""; ; {
		page, err := s.List(ctx, "", after, 1)
		if err != nil {
			require.ErrorIs(tb, err, dataset.ErrCorrupt)
			// The key is quoted in the error. Continue after it.
			_, rest, _ := strings.Cut(err.Error(), `"`)
			after, _, _ = strings.Cut(rest, `"`)
			continue
		}
		if len(page) == 0 {
			return list
		}
		list, after = append(list, page...), page[0].Key
	}
}

func FuzzRecord(f *testing.F) {
	for _, seed := range []struct{ key, session, value string }{
		{"a", "", ""}, {"names/db", "", `{"id":1}`}, {"b/1", "0f8c", strings.Repeat("x", 300)},
	} {
		r := newRecord(seed.session, []byte(seed.value))
		seal(r, seed.key, 7)
		f.Add(seed.key, r)
	}
	f.Add("", []byte{})
	f.Add("a", []byte{1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 255})
	f.Fuzz(func(t *testing.T, key string, b []byte) {
		r, err := parseRecord(key, b)
		if err != nil {
			require.ErrorIs(t, err, dataset.ErrCorrupt)
			return
		}
		again := newRecord(r.session, r.value)
		seal(again, key, r.index)
		if !bytes.Equal(again, b) {
			t.Fatalf("%x was read and written as %x", b, again)
		}
	})
}

// FuzzFile changes a few bytes of a file and corrects the checksums of its meta pages, so that the change is found
// deep in the tree.
func FuzzFile(f *testing.F) {
	good := sample(f, 40)
	f.Add(uint32(4096*3+8), []byte{0x01})
	f.Add(uint32(4096*4), []byte{9, 9, 9, 9})
	f.Add(uint32(16+16), []byte{5})
	f.Add(uint32(4096+16+40), []byte{0, 0})
	f.Fuzz(func(t *testing.T, at uint32, change []byte) {
		bad := bytes.Clone(good)
		if len(change) > 64 {
			return
		}
		copy(bad[int(at)%len(bad):], change)
		soundMeta(bad)
		survivors(t, bad)
	})
}

// A file that cannot be read is not a damaged file, which the daemon would replace.
func TestUnreadableFileIsNotDamaged(t *testing.T) {
	path := filepath.Join(t.TempDir(), "store.db")
	require.NoError(t, os.WriteFile(path, sample(t, 20), 0o600))
	f, err := os.OpenFile(path, os.O_WRONLY, 0)
	require.NoError(t, err)
	defer f.Close()
	if _, err := (&Store{path: path}).check(t.Context(), f); err == nil || errors.Is(err, dataset.ErrCorrupt) {
		t.Errorf("got %v", err)
	}
}

// A page that claims to continue for terabytes makes bbolt's check use more and more memory. The child ends soon, and
// the store is refused. That is no proof of damage, because a child can also run out of the memory of the host.
func TestEndlessPage(t *testing.T) {
	path := filepath.Join(t.TempDir(), "store.db")
	b := sample(t, 0)
	binary.NativeEndian.PutUint32(b[len(b)-pageSize+12:], 1<<31) // the root page
	require.NoError(t, os.WriteFile(path, b, 0o600))
	_, err := Open(t.Context(), path, still)
	if dataset.KindOf(err) != dataset.ErrUnavailable || !strings.Contains(err.Error(), "check the file: exit status") ||
		strings.Contains(err.Error(), "\n") {
		t.Errorf("got %v", err)
	}
}

// soundMeta corrects the checksums of both meta pages: 64 bits after a page head of 16 bytes and a meta of 56 bytes
// (go.etcd.io/bbolt, internal/common: meta.go).
func soundMeta(b []byte) {
	for i := range 2 {
		m := b[i*pageSize+16:]
		sum := fnv.New64a()
		sum.Write(m[:56])
		binary.NativeEndian.PutUint64(m[56:], sum.Sum64())
	}
}

// The name of a store is flushed before anything is acknowledged. A store whose folder cannot be flushed is not
// opened, neither by the process that makes it nor by the next one.
func TestI2NewStoreIsNamedForGood(t *testing.T) {
	path := filepath.Join(t.TempDir(), "store.db")
	broken := errors.New("the disk is broken")
	var flushed []string
	syncDir = func(dir string) error {
		flushed = append(flushed, dir)
		return broken
	}
	t.Cleanup(func() { syncDir = durable.SyncDir })
	for range 2 {
		flushed = nil
		s, err := Open(t.Context(), path, Options{Clock: clock.System{}})
		if !errors.Is(err, broken) || !slices.Equal(flushed, []string{filepath.Dir(path)}) {
			t.Errorf("flushed %v, %v", flushed, err)
		}
		if err == nil {
			_ = s.Close()
		}
	}
}
