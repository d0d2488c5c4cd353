package loop

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/uuid"

	"github.com/droverhq/drover/backends"
	"github.com/droverhq/drover/backends/loop/layout"
	"github.com/droverhq/drover/dataset"
	"github.com/droverhq/drover/internal/linux/reflink"
	"github.com/droverhq/drover/internal/scratch"
)

// fragmented makes a dataset with a fragmented head and a snapshot.
func (f *fixture) fragmented() (dataset.Dataset, dataset.Snapshot) {
	f.Helper()
	d := newDataset(xfs)
	f.create(d)
	root, unmount := f.mounted(d.ID)
	const block, blocks = 16 << 10, 400
	path := filepath.Join(root, "a")
	f.write(path, strings.Repeat("x", blocks*2*block))
	s := f.takeSnapshot(d)
	file, err := os.OpenFile(path, os.O_WRONLY, 0)
	f.must(err)
	for i := range int64(blocks) {
		_, err := file.WriteAt([]byte(strings.Repeat("y", block)), i*2*block)
		f.must(err)
	}
	f.must(errors.Join(file.Sync(), file.Close()))
	unmount()
	return d, s
}

func (f *fixture) sum(d dataset.Dataset, item string) [sha256.Size]byte {
	f.Helper()
	image, err := f.folderOf(d).Open(f.layout.Image(item))
	f.must(err)
	defer image.Close()
	f.must(image.Sync())
	data, err := reflink.Data(image)
	f.must(err)
	h := sha256.New()
	f.must(forEachPart(data, func(part []byte, off int64) error {
		if _, err := image.ReadAt(part, off); err != nil {
			return err
		}
		_, err := h.Write(fmt.Appendf(part, "at %d", off))
		return err
	}))
	return [sha256.Size]byte(h.Sum(nil))
}

// After a rewrite the head has few extents and the same bytes, and its snapshots are unchanged. A mounted head is not
// rewritten.
func TestRewrite(t *testing.T) {
	f := newFixture(t, "xfs")
	d, s := f.fragmented()
	kept := f.sum(d, s.ID.String())
	_, unmount := f.mounted(d.ID)
	_, _, err := f.Rewrite(t.Context(), d.ID, nil)
	f.isKind(err, dataset.ErrInUse)
	unmount()
	before := f.sum(d, layout.Head) // the unmount wrote to the head
	var last, total int64
	was, now, err := f.Rewrite(t.Context(), d.ID, func(done, of int64) { last, total = done, of })
	f.must(err)
	if was < 700 || now > was/20 {
		t.Errorf("%d extents became %d", was, now)
	}
	if last != total || total < 2*12<<20 {
		t.Errorf("progress ended at %d of %d", last, total)
	}
	nanos, _, err := f.PredictStall(t.Context(), d.ID)
	f.must(err)
	if nanos != int64(now)*stallPerExtent {
		t.Errorf("a stall of %d ns is foretold for %d extents", nanos, now)
	}
	if f.sum(d, layout.Head) != before || f.sum(d, s.ID.String()) != kept {
		t.Error("bytes have changed")
	}
	f.settled()
	_, _, err = f.Rewrite(t.Context(), uuid.New(), nil)
	f.isKind(err, dataset.ErrNotFound)
}

// An operation on a dataset that is being rewritten gets the old head soon.
func TestRewriteEnds(t *testing.T) {
	f := newFixture(t, "xfs")
	d, _ := f.fragmented()
	before, was := f.sum(d, layout.Head), f.image(d, layout.Head)
	ctx, cancel := context.WithCancelCause(t.Context())
	wanted := dataset.Errorf(dataset.ErrInUse, "it is wanted")
	calls := 0
	_, _, err := f.Rewrite(ctx, d.ID, func(done, _ int64) {
		if done > 0 {
			calls++
			cancel(wanted)
		}
	})
	if !errors.Is(err, wanted) || calls != 1 {
		t.Errorf("%v after %d calls", err, calls)
	}
	if f.image(d, layout.Head) != was || f.sum(d, layout.Head) != before {
		t.Error("the head is another one")
	}
	f.settled()
}

// A copy that does not read back as it was written does not become the head.
func TestRewriteReadsBack(t *testing.T) {
	f := newFixture(t, "xfs")
	d, _ := f.fragmented()
	before, was := f.sum(d, layout.Head), f.image(d, layout.Head)
	dir := f.folderOf(d)
	image, err := dir.Open(f.layout.Image(layout.Head))
	f.must(err)
	defer image.Close()
	data, err := reflink.Data(image)
	f.must(err)
	last := data[len(data)-1]
	_, _, err = f.Rewrite(t.Context(), d.ID, func(done, total int64) {
		if done != total/2 {
			return
		}
		copied, err := dir.OpenFile(f.layout.Image(layout.Next), os.O_WRONLY)
		f.must(err)
		_, err = copied.WriteAt([]byte("flipped"), last.Offset+last.Length-7)
		f.must(errors.Join(err, copied.Close()))
	})
	f.isKind(err, dataset.ErrCorrupt)
	if f.image(d, layout.Head) != was || f.sum(d, layout.Head) != before {
		t.Error("the head is another one")
	}
	f.settled()
}

// Writes to the head without Drover, made or possible during a rewrite, are kept.
func TestRewriteUnderOthers(t *testing.T) {
	f := newFixture(t, "xfs")
	d, _ := f.fragmented()
	was := f.image(d, layout.Head)
	path := filepath.Join(f.folderOf(d).Name(), f.layout.Image(layout.Head))
	rewrite := func(last func()) error {
		t.Helper()
		_, _, err := f.Rewrite(t.Context(), d.ID, func(done, total int64) {
			if done == total {
				last()
			}
		})
		if f.image(d, layout.Head) != was {
			t.Error("the head is another one")
		}
		return err
	}
	device := ""
	f.isKind(rewrite(func() { device = strings.TrimSpace(scratch.Run(t, "losetup", "--find", "--show", path)) }),
		dataset.ErrInUse)
	scratch.Run(t, "losetup", "--detach", device)
	f.isKind(rewrite(func() {
		image, err := os.OpenFile(path, os.O_WRONLY, 0)
		f.must(err)
		_, err = image.WriteAt([]byte("mine"), int64(testSize)-8192)
		f.must(errors.Join(err, image.Close()))
	}), dataset.ErrConflict)
	f.settled()
	_, _, err := f.Rewrite(t.Context(), d.ID, nil)
	f.must(err)
}

// A rewrite for which there is no room does not begin.
func TestRewriteWithoutRoom(t *testing.T) {
	f := newFixture(t, "xfs")
	d, _ := f.fragmented()
	st := f.Status(t.Context())
	hog, err := os.Create(filepath.Join(f.disk, "hog"))
	f.must(err)
	defer hog.Close()
	f.must(allocate(hog, int64(st.Free-backends.Reserve(st.Size)-4*dataset.MiB)))
	_, _, err = f.Rewrite(t.Context(), d.ID, func(int64, int64) { t.Error("it was begun") })
	f.isKind(err, dataset.ErrNoSpace)
	f.settled()
}

// If snapshots take the same time anyhow, nothing is rewritten.
func TestRewriteForNothing(t *testing.T) {
	f := newFixture(t, "btrfs")
	d := newDataset(xfs)
	f.create(d)
	_, _, err := f.Rewrite(t.Context(), d.ID, nil)
	f.isKind(err, dataset.ErrUnsupported)
}
