package loop

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"syscall"

	"github.com/google/uuid"
	"golang.org/x/sys/unix"

	"github.com/droverhq/drover/backends"
	"github.com/droverhq/drover/backends/loop/folder"
	"github.com/droverhq/drover/backends/loop/imagefile"
	"github.com/droverhq/drover/backends/loop/layout"
	"github.com/droverhq/drover/dataset"
	"github.com/droverhq/drover/internal/linux/loopdev"
	"github.com/droverhq/drover/internal/linux/reflink"
)

// rewriter rewrites fragmented heads.
type rewriter struct {
	pool   string // its name, for errors
	layout layout.Layout
	images *imagefile.Images
	heads  *imagefile.Heads
	step   func(string)
}

// Rewrite implements backends.Rewriter. It copies the bytes of the head, and replaces the head by the copy in one
// step once the copy is on the disk.
func (p *Pool) Rewrite(ctx context.Context, id uuid.UUID, progress backends.Progress) (before, after int, err error) {
	err = p.catalog.withDataset(id, func(dir folder.Dir) error {
		p.step("rewrite.begin")
		if !p.layout.Costly() {
			return dataset.Errorf(dataset.ErrUnsupported,
				"rewriting has no benefit: snapshots in pool %s take constant time regardless of fragmentation",
				p.name)
		}
		if err := p.attacher.Release(ctx, dir, false); err != nil {
			return err
		}
		before, after, err = p.rewriter.rewrite(ctx, dir, progress)
		return err
	})
	if err != nil {
		return 0, 0, fmt.Errorf("rewrite dataset %s: %w", id, err)
	}
	return before, after, nil
}

// rewrite rewrites the head in dir. It returns the number of extents before and after.
func (w *rewriter) rewrite(
	ctx context.Context,
	dir folder.Dir,
	progress backends.Progress,
) (extents, fewer int, err error) {
	head, err := dir.Open(w.layout.Image(layout.Head))
	if err != nil {
		return 0, 0, err
	}
	defer head.Close()
	// Nobody can attach the image until it is closed.
	if err := loopdev.Claim(ctx, head); errors.Is(err, loopdev.ErrAttached) {
		return 0, 0, dataset.Errorf(dataset.ErrInUse, "%w", err)
	} else if err != nil {
		return 0, 0, err
	}
	fi, err := head.Stat()
	if err != nil {
		return 0, 0, err
	}
	if same, err := w.images.IsHeadInode(dir, fi.Sys().(*syscall.Stat_t).Ino); err != nil {
		return 0, 0, err
	} else if !same {
		return 0, 0, dataset.Errorf(dataset.ErrConflict, "its head was replaced meanwhile")
	}
	if err := head.Sync(); err != nil { // data that has no extent yet would not be copied
		return 0, 0, err
	}
	if extents, err = reflink.Count(head); err != nil {
		return 0, 0, err
	}
	data, err := reflink.Data(head)
	if err != nil {
		return 0, 0, err
	}
	if err := w.checkRoom(dir, data); err != nil {
		return 0, 0, err
	}
	w.step("rewrite.measured")
	if err := w.layout.Remove(dir, layout.Next); err != nil {
		return 0, 0, err
	}
	image, err := w.layout.Create(dir, layout.Next)
	if err != nil {
		return 0, 0, err
	}
	err = w.heads.Finish(dir, image, func(image *os.File) error {
		if err := errors.Join(imagefile.KeepTag(head, image), image.Truncate(fi.Size())); err != nil {
			return err
		}
		if err := copyInto(ctx, image, head, data, progress); err != nil {
			return err
		}
		w.step("rewrite.copied")
		fewer, err = reflink.Count(image)
		return err
	})
	if err != nil {
		return 0, 0, err
	}
	if err := checkUntouched(head, fi); err != nil {
		return 0, 0, errors.Join(err, w.layout.Remove(dir, layout.Next))
	}
	return extents, fewer, w.heads.Replace(dir)
}

// checkUntouched fails if an image was attached or changed meanwhile without Drover, for example by losetup(8).
// Replacing the image would lose those writes.
func checkUntouched(image *os.File, before os.FileInfo) error {
	device, attached, err := loopdev.Attached(image)
	if err != nil {
		return err
	}
	current, err := image.Stat()
	switch {
	case err != nil:
		return err
	case attached:
		return dataset.Errorf(dataset.ErrInUse,
			"it was attached to %s meanwhile by another program: nothing was changed", device.Path)
	case !current.ModTime().Equal(before.ModTime()) || current.Size() != before.Size():
		return dataset.Errorf(dataset.ErrConflict,
			"it was written to meanwhile by another program: nothing was changed")
	}
	return nil
}

// checkRoom fails before the rewriting begins if the copy would leave the pool nearly full.
func (w *rewriter) checkRoom(dir folder.Dir, data []reflink.Range) error {
	free, size, err := layout.Space(dir)
	if err != nil {
		return err
	}
	var need dataset.Size
	for _, r := range data {
		need += dataset.Size(r.Length)
	}
	if free < need {
		free = need // so that CheckRoom fails
	}
	if err := backends.CheckRoom(w.pool, free-need, size); err != nil {
		return fmt.Errorf("it needs %s while it runs, and afterwards the space that its snapshots now share with "+
			"it: %w",
			need.Human(), err)
	}
	return nil
}

// rewriteAtOnce is how many bytes are written before they are flushed. A flush cannot be cancelled.
const rewriteAtOnce = 16 << 20

// copyInto copies src into the empty file to, in as few extents as the free space allows. It then reads both files from
// the disk and compares them. It ends soon after ctx does.
func copyInto(ctx context.Context, to, src *os.File, data []reflink.Range, progress backends.Progress) error {
	var done, total int64
	for _, r := range data {
		total += 2 * r.Length
	}
	each := func(n int64) error {
		done += n
		if progress != nil {
			progress(done, total)
		}
		return context.Cause(ctx)
	}
	for _, r := range data { // allocate each range in one call, so that it is contiguous
		err := unix.Fallocate(int(to.Fd()), 0, r.Offset, r.Length)
		if err == nil {
			err = each(0)
		}
		if err != nil {
			return err
		}
	}
	var pending int64
	err := forEachPart(data, func(part []byte, off int64) error {
		if _, err := src.ReadAt(part, off); err != nil {
			return err
		}
		if _, err := to.WriteAt(part, off); err != nil {
			return err
		}
		if pending += int64(len(part)); pending >= rewriteAtOnce {
			if err := unix.Fdatasync(int(to.Fd())); err != nil {
				return err
			}
			pending = 0
		}
		return each(int64(len(part)))
	})
	if err == nil {
		err = to.Sync()
	}
	for _, f := range []*os.File{to, src} { // the comparison must read the disk and not the page cache
		if err == nil {
			err = unix.Fadvise(int(f.Fd()), 0, 0, unix.FADV_DONTNEED)
		}
	}
	if err != nil {
		return err
	}
	other := make([]byte, partSize)
	return forEachPart(data, func(part []byte, off int64) error {
		if _, err := src.ReadAt(part, off); err != nil {
			return err
		}
		if _, err := to.ReadAt(other[:len(part)], off); err != nil {
			return err
		}
		if !bytes.Equal(part, other[:len(part)]) {
			return dataset.Errorf(dataset.ErrCorrupt,
				"the data read at %d is not the data that was written, so the old head stays: check the disk for "+
					"errors (dmesg)", off)
		}
		return each(int64(len(part)))
	})
}

// partSize is how many bytes are read at once.
const partSize = 1 << 20

// forEachPart calls do with a buffer and an offset for each part of the ranges.
func forEachPart(data []reflink.Range, do func(part []byte, off int64) error) error {
	buf := make([]byte, partSize)
	for _, r := range data {
		for off := r.Offset; off < r.Offset+r.Length; {
			part := buf[:min(int64(len(buf)), r.Offset+r.Length-off)]
			if err := do(part, off); err != nil {
				return err
			}
			off += int64(len(part))
		}
	}
	return nil
}
