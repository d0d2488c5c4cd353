package fsctl

import (
	"errors"
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/droverhq/drover/internal/scratch"
	"github.com/droverhq/drover/test/require"
)

func TestSteady(t *testing.T) {
	t.Parallel()
	const used, reserved = 600, 1000
	for name, c := range map[string]struct {
		reads  []int64 // the last one stays
		free   int64
		waited int
	}{
		"enough at once":        {[]int64{100}, 100 * 512, 0},
		"less than none, once":  {[]int64{-32, 1000}, 1000 * 512, 1},
		"little, then enough":   {[]int64{5, 7, -32, 400}, 400 * 512, 3},
		"little, and it stays":  {[]int64{5, -32, 7, 6}, 7 * 512, 9},
		"none":                  {[]int64{0}, 0, 9},
		"less than none always": {[]int64{-32}, 0, 9},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			n, waited := 0, 0
			free, all, err := readSteady(func(st *unix.Statfs_t) error {
				available := c.reads[min(n, len(c.reads)-1)]
				*st = unix.Statfs_t{
					Bavail: uint64(available),
					Bfree:  uint64(available + reserved),
					Blocks: uint64(used + reserved + available),
					Frsize: 512,
					Bsize:  4096,
				}
				n++
				return nil
			}, func() { waited++ })
			if err != nil || free != c.free || all != used*512+c.free || waited != c.waited {
				t.Errorf("free %d of %d after %d waits, %v; want %d after %d", free, all, waited, err, c.free, c.waited)
			}
		})
	}
	if _, _, err := readSteady(func(*unix.Statfs_t) error { return unix.EIO }, nil); !errors.Is(err, unix.EIO) {
		t.Errorf("a failed read: %v", err)
	}
	if _, _, err := Space(filepath.Join(t.TempDir(), "absent")); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("an absent folder: %v", err)
	}
}

// TestFreeRemoved: after FreeRemoved, statfs(2) does not count the blocks of removed files.
func TestFreeRemoved(t *testing.T) {
	for name, size := range map[string]int64{"xfs": scratch.XFS, "ext4": scratch.Ext4} {
		t.Run(name, func(t *testing.T) {
			at := scratch.Mount(t, name, size)
			free := func() uint64 {
				t.Helper()
				var fs unix.Statfs_t
				require.NoError(t, unix.Statfs(at, &fs))
				return fs.Bfree
			}
			for range 20 {
				before := free()
				file := filepath.Join(at, "file")
				f, err := os.Create(file)
				if err == nil {
					err = unix.Fallocate(int(f.Fd()), 0, 0, 8<<20)
				}
				require.NoError(t, err)
				_ = f.Close()
				require.NoError(t, os.Remove(file))
				require.NoError(t, FreeRemoved(at))
				if after := free(); before-after > 1000 && after < before {
					t.Fatalf("%d blocks are free, want about %d", after, before)
				}
			}
		})
	}
}

// TestWrittenCountsAtOnce: what is written counts as used, also on btrfs, whose statfs(2) counts it up to 30 s later.
func TestWrittenCountsAtOnce(t *testing.T) {
	at := scratch.Mount(t, "btrfs", scratch.Btrfs, "commit=300")
	f, err := os.Create(filepath.Join(at, "file"))
	require.NoError(t, err)
	defer f.Close()
	before, size, err := SpaceOf(f)
	used, usedErr := Used(f)
	require.NoError(t, errors.Join(err, usedErr))
	for n, flush := range []func() error{func() error { return nil }, f.Sync, func() error { return Sync(f) }} {
		_, err := f.Write(make([]byte, 16<<20))
		require.NoError(t, errors.Join(err, flush()))
		want := int64(n+1) * 16 << 20
		free, all, err := Space(at)
		now, usedErr := Used(f)
		require.NoError(t, errors.Join(err, usedErr))
		near := func(a, b int64) bool { return max(a, b)-min(a, b) < 2<<20 }
		if !near(all, size) || !near(before-free, want) || !near(now-used, want) {
			t.Errorf("after %d bytes %d more are used, and %d less are free, of %d", want, now-used, before-free, all)
		}
	}
}
