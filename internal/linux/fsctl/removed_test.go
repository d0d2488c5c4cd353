package fsctl

import (
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/droverhq/drover/internal/scratch"
)

// TestFreeRemoved: after FreeRemoved, statfs(2) does not count the blocks of removed files.
func TestFreeRemoved(t *testing.T) {
	for name, size := range map[string]int64{"xfs": scratch.XFS, "ext4": scratch.Ext4} {
		t.Run(name, func(t *testing.T) {
			at := scratch.Mount(t, name, size)
			free := func() uint64 {
				t.Helper()
				var fs unix.Statfs_t
				if err := unix.Statfs(at, &fs); err != nil {
					t.Fatal(err)
				}
				return fs.Bfree
			}
			for range 20 {
				before := free()
				file := filepath.Join(at, "file")
				f, err := os.Create(file)
				if err == nil {
					err = unix.Fallocate(int(f.Fd()), 0, 0, 8<<20)
				}
				if err != nil {
					t.Fatal(err)
				}
				_ = f.Close()
				if err := os.Remove(file); err != nil {
					t.Fatal(err)
				}
				if err := FreeRemoved(at); err != nil {
					t.Fatal(err)
				}
				if after := free(); before-after > 1000 && after < before {
					t.Fatalf("%d blocks are free, want about %d", after, before)
				}
			}
		})
	}
}
