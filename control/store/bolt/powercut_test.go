package bolt_test

import (
	"context"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"testing"

	"github.com/droverhq/drover/internal/linux/loopdev"
	"github.com/droverhq/drover/internal/linux/mount"
	"github.com/droverhq/drover/internal/linux/reflink"
	"github.com/droverhq/drover/internal/scratch"
)

// The store is on an ext4 whose disk is an image file on XFS. A reflink of the image has the contents of the disk at
// one moment: it lacks what the filesystem has not flushed. Such copies are made while callers write, mounted as
// after a power cut (the journal is replayed), and opened.
func TestAcknowledgedSurvivesPowerCut(t *testing.T) {
	disks := scratch.Mount(t, "xfs", 2*scratch.XFS)
	image := filepath.Join(disks, "disk")
	newImage(t, image, 64<<20)
	scratch.Format(t, "ext4", image)
	s := open(t, pathIn(scratch.MountImage(t, "ext4", image)))

	ctx, cancel := context.WithCancel(t.Context())
	var wg sync.WaitGroup
	var mu sync.Mutex
	var acked []string
	more := make(chan struct{}, 1)
	wg.Go(func() {
		write(ctx, s, "w", func(key string) {
			mu.Lock()
			acked = append(acked, key)
			mu.Unlock()
			select {
			case more <- struct{}{}:
			default:
			}
		})
	})
	type cut struct {
		image string
		acked []string
	}
	var cuts []cut
	for n := range 16 {
		for range 1 + rand.IntN(60) {
			<-more
		}
		mu.Lock()
		before := slices.Clone(acked)
		mu.Unlock()
		copied := filepath.Join(disks, "cut"+string(rune('a'+n)))
		clone(t, copied, image)
		cuts = append(cuts, cut{copied, before})
	}
	cancel()
	wg.Wait()
	shut(t, s)
	for _, c := range cuts {
		afterCut(t, c.image, func(dir string) { whole(t, pathIn(dir), c.acked) })
	}
}

func newImage(t *testing.T, path string, size int64) {
	t.Helper()
	f, err := os.OpenFile(path, os.O_CREATE|os.O_EXCL|os.O_RDWR, 0o600)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if err := f.Truncate(size); err != nil {
		t.Fatal(err)
	}
}

func clone(t *testing.T, dst, src string) {
	t.Helper()
	from, err := os.Open(src)
	if err != nil {
		t.Fatal(err)
	}
	defer from.Close()
	to, err := os.OpenFile(dst, os.O_CREATE|os.O_EXCL|os.O_RDWR, 0o600)
	if err != nil {
		t.Fatal(err)
	}
	defer to.Close()
	if err := reflink.Clone(to, from); err != nil {
		t.Fatal(err)
	}
}

// afterCut mounts a copy of a disk while fn runs.
func afterCut(t *testing.T, image string, fn func(dir string)) {
	t.Helper()
	dev, err := loopdev.Attach(t.Context(), image, loopdev.Options{BlockSize: 4096})
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	if err := mount.Mount(dir, mount.Spec{Source: dev.Path, FSType: "ext4"}); err != nil {
		t.Fatal(err, dev.Close())
	}
	defer func() {
		if err := mount.Unmount(dir); err != nil {
			t.Error(err)
		}
		if err := dev.Close(); err != nil {
			t.Error(err)
		}
	}()
	fn(dir)
}
