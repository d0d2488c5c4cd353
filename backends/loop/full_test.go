package loop

import (
	"bytes"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/droverhq/drover/backends"
	"github.com/droverhq/drover/internal/scratch"
)

// A pool without a free block can be opened, after a restart too, and its datasets can be removed. There is no other
// way to make room.
func TestOpenWhenFull(t *testing.T) {
	onPools(t, func(f *fixture) {
		d := newDataset(ext4)
		f.create(d)
		f.put(d.ID, "a", "kept")
		scratch.Fill(t, f.disk)
		b, _ := newBackend()
		pool, err := b.Open(t.Context(), backends.Config{ID: f.ID(), Name: "test", Path: filepath.Join(f.disk, "pool")})
		f.must(err)
		entries, err := pool.List(t.Context())
		f.must(err)
		if len(entries) == 0 || entries[0].ID != d.ID {
			t.Errorf("the full pool lists %+v", entries)
		}
		f.must(pool.Delete(t.Context(), d.ID))
	})
}

// Bytes that a writer on a full pool was told are on the disk are there. The blocks of the image are shared with a
// snapshot, so each write needs room in the pool. The loop driver of the kernel treats a write that its file accepts
// in part as complete (lo_complete_rq in Linux 6.18), and a direct write to a btrfs can be shortened when room runs
// out. With the images used here that does not happen.
//
// How much is acknowledged before the pool is full depends on where the filesystems allocate. If the first write
// without room is one of the journal, the filesystem in the image stops at once and an attempt shows nothing, so it
// is repeated on a new pool.
func TestAcknowledgedOnFullPool(t *testing.T) {
	const chunks, attempts = 200, 5
	for _, fstype := range []string{"xfs", "btrfs"} {
		t.Run(fstype, func(t *testing.T) {
			t.Parallel()
			for range attempts {
				kept, lost := writeOnFullPool(newFixture(t, fstype), chunks)
				if lost > 0 {
					t.Fatalf("%d of %d acknowledged chunks are lost", lost, kept+lost)
				}
				if kept > 0 && kept < chunks {
					return
				}
			}
			t.Errorf("in none of %d attempts some of %d writes were acknowledged and others were not", attempts, chunks)
		})
	}
}

// writeOnFullPool overwrites the chunks of a file, whose blocks are shared with a snapshot, in a pool that has room for
// some of them. It returns how many chunks that were acknowledged are on disk, and how many are not.
func writeOnFullPool(f *fixture, chunks int) (kept, lost int) {
	const chunk = 1 << 20
	d := newDataset(ext4)
	f.create(d)
	root, unmount := f.mounted(d.ID)
	pattern := func(b byte) []byte { return bytes.Repeat([]byte{b}, chunk) }
	file, err := os.Create(filepath.Join(root, "data"))
	f.must(err)
	for range chunks {
		_, err := file.Write(pattern('a'))
		f.must(err)
	}
	f.must(errors.Join(file.Sync(), file.Close()))
	f.takeSnapshot(d)
	// The free space is in many pieces, each smaller than a write.
	const pieces, piece = 80, 300 << 10
	place := func(i int) string { return filepath.Join(f.disk, fmt.Sprint("room", i)) }
	for i := range pieces {
		f.must(os.WriteFile(place(i), make([]byte, piece), 0o600))
	}
	scratch.Fill(f, f.disk)
	for i := 0; i < pieces; i += 2 {
		f.must(os.Remove(place(i)))
	}
	dir, err := os.Open(f.disk)
	f.must(err)
	f.must(errors.Join(unix.Syncfs(int(dir.Fd())), dir.Close()))
	awaitFree(f, f.disk, pieces/2*piece)

	file, err = os.OpenFile(filepath.Join(root, "data"), os.O_WRONLY, 0)
	f.must(err)
	acknowledged := map[int]bool{}
	for _, i := range rand.Perm(chunks) {
		_, err := file.WriteAt(pattern('b'), int64(i)*chunk)
		if err == nil {
			err = file.Sync()
		}
		acknowledged[i] = err == nil
	}
	_ = file.Close()
	unmount()
	f.must(os.Remove(filepath.Join(f.disk, "ballast")))
	root, unmount = f.mounted(d.ID)
	defer unmount()
	got, err := os.ReadFile(filepath.Join(root, "data"))
	f.must(err)
	for i, said := range acknowledged {
		switch {
		case !said:
		case bytes.Equal(got[i*chunk:(i+1)*chunk], pattern('b')):
			kept++
		default:
			lost++
		}
	}
	return kept, lost
}

// awaitFree waits until a filesystem has that much room: XFS frees the blocks of removed files in the
// background (fs/xfs/xfs_icache.c, inodegc).
func awaitFree(t testing.TB, dir string, want uint64) {
	t.Helper()
	var free uint64
	for until := time.Now().Add(10 * time.Second); time.Now().Before(until); time.Sleep(time.Millisecond) {
		var st unix.Statfs_t
		if err := unix.Statfs(dir, &st); err != nil {
			t.Fatal(err)
		}
		if free = st.Bavail * uint64(st.Bsize); free >= want {
			return
		}
	}
	t.Fatalf("%s has %d bytes free, want %d", dir, free, want)
}
