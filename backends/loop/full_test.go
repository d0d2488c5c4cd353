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

// A pool without a free block opens, after a restart too, and what is in it can be
// removed: there is no other way to make room.
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

// What a writer on a full pool was told to be on disk is there. The blocks of the image are shared with a
// snapshot, so each write needs room in the pool. The kernel's loop driver takes a write that its file
// takes in part for a whole one (lo_complete_rq in Linux 6.18), and a direct write to a btrfs may be cut
// short when room runs out. It is not with images as they are here.
func TestAcknowledgedOnFullPool(t *testing.T) {
	onPools(t, func(f *fixture) {
		const chunk, chunks = 1 << 20, 200
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
		// The room lies in many places, none as large as a write.
		const pieces, piece = 80, 300 << 10
		place := func(i int) string { return filepath.Join(f.disk, fmt.Sprint("room", i)) }
		for i := range pieces {
			f.must(os.WriteFile(place(i), make([]byte, piece), 0o600))
		}
		scratch.Fill(t, f.disk)
		for i := 0; i < pieces; i += 2 {
			f.must(os.Remove(place(i)))
		}
		dir, err := os.Open(f.disk)
		f.must(err)
		f.must(errors.Join(unix.Syncfs(int(dir.Fd())), dir.Close()))
		awaitFree(t, f.disk, pieces/2*piece)

		file, err = os.OpenFile(filepath.Join(root, "data"), os.O_WRONLY, 0)
		f.must(err)
		acknowledged := map[int]bool{}
		for _, i := range rand.New(rand.NewPCG(1, 2)).Perm(chunks) {
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
		lost, kept := 0, 0
		for i, said := range acknowledged {
			if !said {
				continue
			}
			if bytes.Equal(got[i*chunk:(i+1)*chunk], pattern('b')) {
				kept++
			} else {
				lost++
			}
		}
		if lost > 0 || kept == 0 || kept == chunks {
			t.Errorf("of %d acknowledged chunks %d are lost; %d were written", kept+lost, lost, chunks)
		}
	})
}

// awaitFree waits until a filesystem has that much room: XFS frees the blocks of removed files in the
// background (fs/xfs/xfs_icache.c, inodegc).
func awaitFree(t *testing.T, dir string, want uint64) {
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
