package loop

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"

	"github.com/google/uuid"
	"golang.org/x/sys/unix"

	"github.com/droverhq/drover/backends"
	"github.com/droverhq/drover/backends/shelf"
	"github.com/droverhq/drover/backends/stream"
	"github.com/droverhq/drover/dataset"
	"github.com/droverhq/drover/internal/linux/reflink"
	"github.com/droverhq/drover/internal/safefile"
)

// Send implements backends.Sender. It reads the difference from the extent maps of the two images, so its cost depends
// on the length of the difference. Ranges are as long as possible, so the stream does not depend on the boundaries of
// extents. These can change: the kernel splits an extent when another file shares a part of it.
func (p *Pool) Send(ctx context.Context, src dataset.Source, base uuid.UUID, from int64, w io.Writer,
	progress backends.Progress) (out backends.Stream, err error) {
	defer backends.Wrap(&err, "send snapshot %s of dataset %s", src.Snapshot, src.Dataset)
	f, err := p.FindDatasetOrCopy(src.Dataset)
	if err != nil {
		return out, err
	}
	defer f.Close()
	dir := f.Dir
	image, err := p.openSnapshot(dir, src.Snapshot)
	if err != nil {
		return out, err
	}
	defer image.Close()
	fi, err := image.Stat()
	if err != nil {
		return out, err
	}
	ranges, err := p.ranges(dir, base, image)
	if err != nil {
		return out, err
	}
	fs, _, err := superblock(image)
	if err != nil {
		return out, err
	}
	e, err := stream.NewWriter(w, stream.Header{
		Kind: kind, Dataset: src.Dataset, Snapshot: src.Snapshot, Base: base, Size: dataset.Size(fi.Size()),
		Filesystem: fs,
	}, from)
	if err != nil {
		return out, err
	}
	m := meter{total: sum(ranges).Bytes, report: progress}
	if err := sendRanges(ctx, e, image, ranges, &m, prefetch{ranges: ranges, readAhead: willNeed(image)}); err != nil {
		return out, err
	}
	return e.End()
}

func sendRanges(ctx context.Context, e *stream.Writer, image *os.File, ranges []reflink.Range, m *meter,
	early prefetch) error {
	buf := make([]byte, stream.MaxPayload)
	for _, r := range ranges {
		if err := sendRange(ctx, e, image, r, buf, m, &early); err != nil {
			return err
		}
	}
	return nil
}

func sendRange(ctx context.Context, e *stream.Writer, image *os.File, r reflink.Range, buf []byte, m *meter,
	early *prefetch) error {
	if r.Zero {
		return e.Zeros(r.Offset, r.Length)
	}
	for off, end := r.Offset, r.Offset+r.Length; off < end; {
		if err := ctx.Err(); err != nil {
			return err
		}
		early.advance(m.done + prefetchAhead)
		part := buf[:min(int64(len(buf)), end-off)]
		if _, err := image.ReadAt(part, off); err != nil {
			return fmt.Errorf("read %s: %w", image.Name(), err)
		}
		if err := e.Data(off, part); err != nil {
			return err
		}
		off += int64(len(part))
		m.add(int64(len(part)))
	}
	return nil
}

// The kernel is asked to read prefetchAhead bytes ahead of the stream. One request has prefetchPart bytes, because the
// kernel reads no more at once if the pool is on a loop device.
const (
	prefetchAhead = 8 << 20
	prefetchPart  = 256 << 10
)

// prefetch makes the kernel read the next parts of the stream in advance. Otherwise scattered ranges would be read one
// after the other, and the disk would often be slower than the network.
type prefetch struct {
	ranges           []reflink.Range
	readAhead        func(offset, length int64)
	requestedOfFirst int64 // bytes of the first range that were requested
	requested        int64 // bytes that were requested in total
}

// willNeed returns a function that asks the kernel to read a part of a file in advance. The request is a hint: if it
// fails, a later read only waits longer.
func willNeed(f *os.File) func(offset, length int64) {
	return func(offset, length int64) { _ = unix.Fadvise(int(f.Fd()), offset, length, unix.FADV_WILLNEED) }
}

// advance requests data until the requests contain the given number of bytes, counted from the first range. Ranges of
// zeros do not count.
func (p *prefetch) advance(bytes int64) {
	for p.requested < bytes && len(p.ranges) > 0 {
		r := p.ranges[0]
		n := min(r.Length-p.requestedOfFirst, prefetchPart)
		if r.Zero || n == 0 {
			p.ranges, p.requestedOfFirst = p.ranges[1:], 0
			continue
		}
		p.readAhead(r.Offset+p.requestedOfFirst, n)
		p.requestedOfFirst += n
		p.requested += n
	}
}

// ranges returns the ranges in which a snapshot's image differs from that of a base, or all of its data if there is
// no base.
func (p *Pool) ranges(dir safefile.Dir, base uuid.UUID, image *os.File) ([]reflink.Range, error) {
	if base == uuid.Nil {
		return reflink.Data(image)
	}
	old, err := p.openSnapshot(dir, base)
	if err != nil {
		return nil, err
	}
	defer old.Close()
	return reflink.Changed(old, image)
}

// sum adds up ranges.
func sum(ranges []reflink.Range) backends.Change {
	c := backends.Change{Ranges: len(ranges)}
	for _, r := range ranges {
		if r.Zero {
			c.Zeroed += r.Length
		} else {
			c.Bytes += r.Length
		}
	}
	return c
}

// meter reports the progress of a send.
type meter struct {
	done, total int64
	report      backends.Progress
}

func (m *meter) add(n int64) {
	m.done += n
	if m.report != nil {
		m.report(m.done, m.total)
	}
}

// Same implements backends.Sender.
func (p *Pool) Same(_ context.Context, ds, a, b uuid.UUID) (_ bool, err error) {
	defer backends.Wrap(&err, "compare two snapshots of dataset %s", ds)
	f, err := p.FindDatasetOrCopy(ds)
	if err != nil {
		return false, err
	}
	defer f.Close()
	dir := f.Dir
	first, err := p.openPoint(dir, dataset.Source{Dataset: ds, Snapshot: a})
	if err != nil {
		return false, err
	}
	defer first.Close()
	second, err := p.openPoint(dir, dataset.Source{Dataset: ds, Snapshot: b})
	if err != nil {
		return false, err
	}
	defer second.Close()
	return reflink.Same(first, second)
}

// Changed implements backends.Sender.
func (p *Pool) Changed(_ context.Context, older, newer dataset.Source) (_ backends.Change, err error) {
	defer backends.Wrap(&err, "compare two snapshots of dataset %s", newer.Dataset)
	f, err := p.FindDatasetOrCopy(newer.Dataset)
	if err != nil {
		return backends.Change{}, err
	}
	defer f.Close()
	b, err := p.openPoint(f.Dir, newer)
	if err != nil {
		return backends.Change{}, err
	}
	defer b.Close()
	ranges, err := p.rangesSince(f.Dir, older, newer, b)
	return sum(ranges), err
}

// rangesSince returns the ranges in which newer, whose image is open, differs from older.
func (p *Pool) rangesSince(dir safefile.Dir, older, newer dataset.Source, image *os.File) ([]reflink.Range, error) {
	fromEmpty := older.Dataset == uuid.Nil
	switch {
	case !fromEmpty && older.Dataset != newer.Dataset:
		return nil, dataset.Errorf(dataset.ErrUnsupported, "they belong to different datasets")
	case newer.Snapshot != uuid.Nil && (fromEmpty || older.Snapshot != uuid.Nil):
		return p.ranges(dir, older.Snapshot, image)
	case fromEmpty:
		return reflink.Data(image)
	}
	old, err := p.openPoint(dir, older)
	if err != nil {
		return nil, err
	}
	defer old.Close()
	return reflink.Changed(old, image)
}

// openPoint opens the image of a snapshot, or of the head if point names no snapshot.
func (p *Pool) openPoint(dir safefile.Dir, point dataset.Source) (*os.File, error) {
	if point.Snapshot == uuid.Nil {
		f, err := dir.Open(p.layout.Image(headItem))
		if errors.Is(err, os.ErrNotExist) {
			err = shelf.NoHeadError(point.Dataset)
		}
		return f, err
	}
	return p.openSnapshot(dir, point.Snapshot)
}
