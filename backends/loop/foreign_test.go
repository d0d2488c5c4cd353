package loop

import (
	"bytes"
	"crypto/sha256"
	"io"
	"os"
	"path/filepath"
	"testing"

	"github.com/google/uuid"
	"golang.org/x/sys/unix"

	"github.com/droverhq/drover/backends"
	"github.com/droverhq/drover/dataset"
	"github.com/droverhq/drover/internal/scratch"
	"github.com/droverhq/drover/test/require"
)

// A virtual machine that is running may have an XFS in a file as its disk. The file is not written to, not even by
// replaying its log.
func TestImageOfOthersIsLeftAlone(t *testing.T) {
	image := scratch.Image(t, xfs, int64(dataset.GiB))
	theirs := t.TempDir()
	scratch.Run(t, "mount", "-o", "loop", image, theirs)
	require.NoError(t, os.WriteFile(filepath.Join(theirs, "file"), []byte("theirs"), 0o600))
	scratch.Run(t, "umount", theirs)
	before, sum := blocks(t, image), checksum(t, image)
	b, _ := newBackend()
	f, mnt := &fixture{T: t}, filepath.Join(t.TempDir(), "mnt")
	for _, id := range []uuid.UUID{uuid.Nil, uuid.New()} { // of drover.yaml, and of drover pool create
		_, err := b.Open(t.Context(), backends.Config{
			ID:    id,
			Name:  "test",
			Path:  image,
			Image: dataset.GiB,
			Mount: mnt,
			Make:  true,
		})
		f.isKind(err, dataset.ErrExists)
		if e := f.mountedAt(mnt); e != nil {
			t.Errorf("left mounted: %+v", e)
		}
	}
	if after := blocks(t, image); after != before {
		t.Errorf("%d bytes were allocated, now %d", before, after)
	}
	if !bytes.Equal(checksum(t, image), sum) {
		t.Error("it was written to")
	}
}

func TestImageInUseIsLeftAlone(t *testing.T) {
	image := scratch.Image(t, xfs, int64(dataset.GiB))
	scratch.MountImage(t, xfs, image)
	b, _ := newBackend()
	for _, id := range []uuid.UUID{uuid.Nil, uuid.New()} {
		_, err := b.Open(t.Context(), backends.Config{
			ID: id, Name: "test", Path: image, Image: dataset.GiB, Mount: filepath.Join(t.TempDir(), "mnt"), Make: true,
		})
		(&fixture{T: t}).isKind(err, dataset.ErrInUse)
	}
}

func checksum(t *testing.T, path string) []byte {
	t.Helper()
	f, err := os.Open(path)
	require.NoError(t, err)
	defer f.Close()
	h := sha256.New()
	_, err = io.Copy(h, f)
	require.NoError(t, err)
	return h.Sum(nil)
}

// A foreign mount in the place of the pool's image stays mounted.
func TestMountOfOthersIsLeftAlone(t *testing.T) {
	cfg := imageConfig(t)
	first := openHosted(t, cfg)
	first.must(first.Pool.Close())
	cfg.ID, cfg.Make = first.ID(), false
	first.must(unix.Mount("none", cfg.Mount, "tmpfs", 0, ""))
	b, _ := newBackend()
	_, err := b.Open(t.Context(), cfg)
	first.isKind(err, dataset.ErrOffline)
	if first.mountedAt(cfg.Mount) == nil {
		t.Fatal("it was unmounted")
	}
	first.must(unix.Unmount(cfg.Mount, 0))
}
