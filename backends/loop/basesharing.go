package loop

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

// baseSharing is for receiving a difference. It makes the image that is being received share the blocks of the base of
// the difference. It shares them while the stream arrives, from the beginning of the image to its end, because the
// ranges of the stream are in the same order. If all blocks were shared before the first byte is read, the network
// would be idle meanwhile: for seconds if the image is fragmented (8 µs an extent on XFS).
type baseSharing struct {
	base, image *os.File
	part        int64 // bytes that one call shares; the call blocks writers of the image
	block       int64 // of the filesystem

	stop    context.CancelFunc
	running sync.WaitGroup // waits for the goroutine that calls run

	mu     sync.Mutex
	more   *sync.Cond
	shared int64 // everything before this byte is shared
	end    int64 // everything before this byte must be shared; it does not change
	err    error // why the sharing has stopped early, or nil
}

// sharedPart is the size of one part in bytes. Sharing one part blocks writers of the image for a few milliseconds at
// most, however fragmented the base is.
const sharedPart = 32 << 20

// startBaseSharing begins to share the blocks of base into image. from is the offset at which it begins: everything
// before is complete already. Parts are multiples of block, the block size of the filesystem. Until close is called,
// the caller must call waitUntil before each write to the image, with the end of the range that it writes.
func startBaseSharing(ctx context.Context, image, base *os.File, from, part, block int64) (*baseSharing, error) {
	baseInfo, err := base.Stat()
	if err != nil {
		return nil, err
	}
	imageInfo, err := image.Stat()
	if err != nil {
		return nil, err
	}
	// If from is within a block, begin with the next one. An earlier run has shared the block of from, and only the
	// bytes that the stream has replaced differ from those of the base. Sharing the block again would undo that.
	b := &baseSharing{base: base, image: image, part: part, block: block, end: min(baseInfo.Size(), imageInfo.Size())}
	b.shared = (from + block - 1) / block * block
	b.more = sync.NewCond(&b.mu)
	ctx, b.stop = context.WithCancel(ctx)
	b.running.Go(func() { b.run(ctx) })
	return b, nil
}

// run shares one part after the other until the end of the base.
func (b *baseSharing) run(ctx context.Context) {
	for b.shared < b.end { // only run writes b.shared
		n, err := int64(0), ctx.Err()
		if err == nil {
			n, err = b.share()
		}
		b.mu.Lock()
		b.err = err
		if err == nil {
			b.shared += n
		}
		b.more.Broadcast()
		b.mu.Unlock()
		if err != nil {
			return
		}
	}
}

// share shares the next part. If the blocks of the filesystem are larger than those of images, an image can end
// within a block. Its bytes are copied.
func (b *baseSharing) share() (n int64, err error) {
	if n = min(b.part, b.end-b.shared) / b.block * b.block; n > 0 {
		return n, reflink.ClonePartAt(b.image, b.shared, b.base, b.shared, n)
	}
	n = b.end - b.shared
	_, err = io.Copy(io.NewOffsetWriter(b.image, b.shared), io.NewSectionReader(b.base, b.shared, n))
	return n, err
}

// waitUntil waits until everything before the byte off of the image is shared. It returns nil if b is nil.
func (b *baseSharing) waitUntil(off int64) error {
	if b == nil {
		return nil
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	for b.err == nil && b.shared < min(off, b.end) {
		b.more.Wait()
	}
	if b.shared >= min(off, b.end) {
		return nil
	}
	return fmt.Errorf("share the base: %w", b.err)
}

// waitAll waits until everything is shared.
func (b *baseSharing) waitAll() error {
	if b == nil {
		return nil
	}
	return b.waitUntil(b.end)
}

// close stops the sharing, even if not everything is shared.
func (b *baseSharing) close() {
	if b == nil {
		return
	}
	b.stop()
	b.running.Wait()
	_ = b.base.Close()
}

// complete adds to the image the parts of the base that the stream left out. If the stream contains no difference, the
// snapshot becomes a second name of the base. The stream contains no difference if a dataset is moved again right after
// a move.
func (r *receiving) complete(ctx context.Context) error {
	if !r.sharesBase() {
		return nil
	}
	base := r.in.Header.Base.String()
	size, err := r.to.imageSize(r.dir, base)
	if err != nil {
		return err
	}
	if r.equalsBase = r.done.End == 0 && size == int64(r.in.Header.Size); !r.equalsBase {
		return errors.Join(r.startBase(ctx), r.base.waitAll())
	}
	image, err := r.dir.Open(r.to.layout.Image(base))
	if err == nil {
		err = r.image.Close()
		r.image = image
	}
	return err
}

// sharesBase reports whether the base is shared into the image while the stream arrives.
func (r *receiving) sharesBase() bool {
	return r.in.Header.Base != uuid.Nil && r.to.layout.Costly()
}

// startBase begins to share the base into the image if it has not begun yet. It is called when the first difference
// arrives.
func (r *receiving) startBase(ctx context.Context) (err error) {
	if r.base == nil && r.sharesBase() {
		r.base, err = r.openBase(ctx)
	}
	return err
}

// openBase begins to share the base into the image.
func (r *receiving) openBase(ctx context.Context) (*baseSharing, error) {
	p, base := r.to, r.in.Header.Base
	from, err := p.openSnapshot(r.dir, base)
	if err != nil {
		return nil, err
	}
	var fs unix.Statfs_t
	if err := unix.Fstatfs(int(from.Fd()), &fs); err != nil {
		return nil, errors.Join(err, from.Close())
	}
	b, err := startBaseSharing(ctx, r.image, from, r.done.End, p.backend.tuning.Part, fs.Bsize)
	if err != nil {
		return nil, errors.Join(err, from.Close())
	}
	return b, nil
}
