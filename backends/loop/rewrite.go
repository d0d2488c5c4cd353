package loop

import (
	"context"
	"errors"
	"fmt"
	"os"
	"syscall"

	"github.com/google/uuid"
	"golang.org/x/sys/unix"

	"github.com/droverhq/drover/backends"
	"github.com/droverhq/drover/dataset"
	"github.com/droverhq/drover/internal/loopdev"
	"github.com/droverhq/drover/internal/reflink"
)

// Rewrite implements backends.Rewriter: the head becomes a copy of its bytes, in one step, when
// that is on the disk.
func (p *Pool) Rewrite(ctx context.Context, id uuid.UUID, progress backends.Progress) (was, now int, err error) {
	err = p.within(id, func(dir folder) error {
		p.step("rewrite.begin")
		if !p.layout.costly() {
			return dataset.Errorf(dataset.ErrUnsupported, "there is nothing to gain: snapshots in pool %s take the same time however fragmented a volume is", p.name)
		}
		if err := p.idle(ctx, dir); err != nil {
			return err
		}
		was, now, err = p.rewrite(ctx, dir, progress)
		return err
	})
	if err != nil {
		return 0, 0, fmt.Errorf("rewrite dataset %s: %w", id, err)
	}
	return was, now, nil
}

func (p *Pool) rewrite(ctx context.Context, dir folder, progress backends.Progress) (extents, fewer int, err error) {
	was, err := dir.open(p.layout.image(head))
	if err != nil {
		return 0, 0, err
	}
	defer was.Close()
	// Nobody attaches it until it is closed.
	if err := loopdev.Claim(ctx, was); errors.Is(err, loopdev.ErrAttached) {
		return 0, 0, dataset.Errorf(dataset.ErrInUse, "%w", err)
	} else if err != nil {
		return 0, 0, err
	}
	fi, err := was.Stat()
	if err != nil {
		return 0, 0, err
	}
	if same, err := p.isHead(dir, fi.Sys().(*syscall.Stat_t).Ino); err != nil {
		return 0, 0, err
	} else if !same {
		return 0, 0, dataset.Errorf(dataset.ErrConflict, "it has another head by now")
	}
	if err := was.Sync(); err != nil { // what is not allocated yet would not be found
		return 0, 0, err
	}
	if extents, err = reflink.Count(was); err != nil {
		return 0, 0, err
	}
	data, err := reflink.Data(was)
	if err != nil {
		return 0, 0, err
	}
	if err := p.roomFor(dir, data); err != nil {
		return 0, 0, err
	}
	err = p.exchange(dir, head, func(image *os.File) error {
		if err := keepTag(was, image); err != nil {
			return err
		}
		if err := copyInto(ctx, image, was, data, progress); err != nil {
			return err
		}
		p.step("rewrite.copied")
		fewer, err = reflink.Count(image)
		return err
	})
	return extents, fewer, err
}

// roomFor refuses what would leave the pool nearly full, before it is begun.
func (p *Pool) roomFor(dir folder, data []reflink.Range) error {
	free, size, err := space(dir)
	if err != nil {
		return err
	}
	var need dataset.Size
	for _, r := range data {
		need += dataset.Size(r.Length)
	}
	if free < need {
		free = need // so that what is left is nothing
	}
	if err := backends.Room(p.name, free-need, size); err != nil {
		return fmt.Errorf("it takes %s for as long as it lasts, and what its snapshots share with it now after: %w", need.Human(), err)
	}
	return nil
}

// rewriteAtOnce is how much is written before it goes to the disk, which cannot be broken off.
const rewriteAtOnce = 16 << 20

// copyInto makes a clone of src a copy of it, which lies in as few pieces as there is room for.
// It ends soon after ctx does.
func copyInto(ctx context.Context, to, src *os.File, data []reflink.Range, progress backends.Progress) error {
	fi, err := src.Stat()
	if err != nil {
		return err
	}
	// Empty first, as all that it has is shared: XFS then finds one place for a whole range.
	if err := errors.Join(to.Truncate(0), to.Truncate(fi.Size())); err != nil {
		return err
	}
	var done, total int64
	for _, r := range data {
		if err := unix.Fallocate(int(to.Fd()), unix.FALLOC_FL_KEEP_SIZE, r.Offset, r.Length); err != nil {
			return fmt.Errorf("allocate %s: %w", dataset.Size(r.Length), err)
		}
		total += r.Length
	}
	buf := make([]byte, 1<<20)
	var pending int64
	for _, r := range data {
		for off := r.Offset; off < r.Offset+r.Length; {
			if err := context.Cause(ctx); err != nil {
				return err
			}
			part := buf[:min(int64(len(buf)), r.Offset+r.Length-off)]
			if _, err := src.ReadAt(part, off); err != nil {
				return err
			}
			if _, err := to.WriteAt(part, off); err != nil {
				return err
			}
			n := int64(len(part))
			off, done, pending = off+n, done+n, pending+n
			if progress != nil {
				progress(done, total)
			}
			if pending >= rewriteAtOnce {
				if err := unix.Fdatasync(int(to.Fd())); err != nil {
					return err
				}
				pending = 0
			}
		}
	}
	return nil
}
