package shelf

import (
	"errors"
	"path/filepath"
	"strings"
	"testing"

	"github.com/droverhq/drover/internal/linux/mount"
	"github.com/droverhq/drover/internal/safefile"
	"github.com/droverhq/drover/internal/scratch"
	"github.com/droverhq/drover/test/require"
)

// btrfs makes written bytes part of a file some time after the write: 2 of 71 power cuts left an empty record under its
// name. So the bytes must be on the disk before the rename, although the name itself need not be durable.
func TestRecordsBytesComeBeforeItsName(t *testing.T) {
	image := scratch.Image(t, "btrfs", scratch.Btrfs)
	mnt := scratch.MountImage(t, "btrfs", image)
	root, err := safefile.OpenDir(mnt)
	require.NoError(t, err)
	want := strings.Repeat("x", 9000) // more than fits into an inode
	require.NoError(t, WriteJSON(root, "record.json", want, false))
	cut := filepath.Join(t.TempDir(), "cut")
	scratch.Copy(t, image, cut)
	if err := errors.Join(root.Close(), mount.Unmount(mnt)); err != nil { // the copy has the same UUID
		t.Fatal(err)
	}
	copied, err := safefile.OpenDir(scratch.MountImage(t, "btrfs", cut))
	require.NoError(t, err)
	defer copied.Close()
	for _, name := range []string{"record.json", Temp + "record.json"} {
		var got string
		if ReadJSON(copied, name, &got) == nil && got == want {
			return
		}
	}
	t.Error("its bytes are not on the disk")
}
