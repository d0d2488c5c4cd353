package transfer

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"sync"

	"github.com/google/uuid"
	"golang.org/x/sys/unix"

	"github.com/droverhq/drover/internal/linux/reflink"
)

// beneath is what a difference is written over: the blocks of its base are shared into the
// image that it makes, from the first on, while the stream comes, whose ranges are in order.
// Shared all at once before it they would cost seconds of a fragmented image (8 µs an extent
// on XFS) in which the link has nothing to do.
type beneath struct {
	base, image *os.File
	part        int64 // bytes that are shared at once: who writes waits for so many
	block       int64 // of the filesystem

	stop  context.CancelFunc
	owner sync.WaitGroup

	mu   sync.Mutex
	more *sync.Cond
	at   int64 // all before is shared
	end  int64
	err  error
}

// sharedPart keeps writers from the image for some milliseconds at most, however fragmented.
const sharedPart = 32 << 20

// layBeneath begins to share base's blocks into image, from a byte on: before it all is as it
// is to be. Parts are multiples of block, the filesystem's. Until close is called image is not
// written to but before a byte that upTo has returned for.
func layBeneath(ctx context.Context, image, base *os.File, from, part, block int64) (*beneath, error) {
	was, err := base.Stat()
	if err != nil {
		return nil, err
	}
	now, err := image.Stat()
	if err != nil {
		return nil, err
	}
	// Of the block that from lies in, all but what was written over it is shared already.
	b := &beneath{base: base, image: image, part: part, block: block, end: min(was.Size(), now.Size())}
	b.at = (from + block - 1) / block * block
	b.more = sync.NewCond(&b.mu)
	ctx, b.stop = context.WithCancel(ctx)
	b.owner.Go(func() { b.run(ctx) })
	return b, nil
}

func (b *beneath) run(ctx context.Context) {
	for b.at < b.end { // nobody else writes it
		n, err := int64(0), ctx.Err()
		if err == nil {
			n, err = b.share()
		}
		b.mu.Lock()
		b.err = err
		if err == nil {
			b.at += n
		}
		b.more.Broadcast()
		b.mu.Unlock()
		if err != nil {
			return
		}
	}
}

// share shares the next part. An image may end within a block, where these are larger than
// an image's: of that one the bytes are copied.
func (b *beneath) share() (n int64, err error) {
	if n = min(b.part, b.end-b.at) / b.block * b.block; n > 0 {
		return n, reflink.ClonePart(b.image, b.base, b.at, n)
	}
	n = b.end - b.at
	_, err = io.Copy(io.NewOffsetWriter(b.image, b.at), io.NewSectionReader(b.base, b.at, n))
	return n, err
}

// upTo waits until all before a byte of the image is shared. A nil beneath has nothing to
// share.
func (b *beneath) upTo(off int64) error {
	if b == nil {
		return nil
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	for b.err == nil && b.at < min(off, b.end) {
		b.more.Wait()
	}
	if b.at >= min(off, b.end) {
		return nil
	}
	return fmt.Errorf("share the base: %w", b.err)
}

// all waits until all is shared.
func (b *beneath) all() error {
	if b == nil {
		return nil
	}
	return b.upTo(b.end)
}

// close ends it, also where not all is shared.
func (b *beneath) close() {
	if b == nil {
		return
	}
	b.stop()
	b.owner.Wait()
	_ = b.base.Close()
}

// complete has the image hold what the stream left out. Where that is all, which is so of a
// move right after another one, what came is its base, under another name.
func (r *receiving) complete(ctx context.Context) error {
	if !r.grounded() {
		return nil
	}
	base := r.in.Header.Base.String()
	size, err := r.to.Images.Size(r.dir, base)
	if err != nil {
		return err
	}
	if r.asBase = r.done.At == 0 && size == r.in.Header.Size; !r.asBase {
		return errors.Join(r.ground(ctx), r.beneath.all())
	}
	image, err := r.dir.Open(r.to.Layout.Image(base))
	if err == nil {
		err = r.image.Close()
		r.image = image
	}
	return err
}

// grounded tells whether the base gets into the image while the stream comes.
func (r *receiving) grounded() bool {
	return r.in.Header.Base != uuid.Nil && r.to.Layout.Costly()
}

// ground begins to share what the base has into the image, once there is something else in it.
func (r *receiving) ground(ctx context.Context) (err error) {
	if r.beneath == nil && r.grounded() {
		r.beneath, err = r.layBeneath(ctx)
	}
	return err
}

// layBeneath begins to share what the base has into the image.
func (r *receiving) layBeneath(ctx context.Context) (*beneath, error) {
	p, base := r.to, r.in.Header.Base
	from, err := p.Images.OpenSnapshot(r.dir, base)
	if err != nil {
		return nil, err
	}
	var fs unix.Statfs_t
	if err := unix.Fstatfs(int(from.Fd()), &fs); err != nil {
		return nil, errors.Join(err, from.Close())
	}
	b, err := layBeneath(ctx, r.image, from, r.done.At, p.Tuning.Part, fs.Bsize)
	if err != nil {
		return nil, errors.Join(err, from.Close())
	}
	return b, nil
}
