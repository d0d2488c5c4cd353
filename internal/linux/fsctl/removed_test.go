package fsctl

import (
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/droverhq/drover/internal/scratch"
	"github.com/droverhq/drover/test/require"
)

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
