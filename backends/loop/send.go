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

// sender writes the streams of snapshots and compares points in time.
type sender struct {
	*images
	comparison comparison
}

// Send writes the stream of snapshot src, or of its difference from base, to w. from is the number of bytes to skip at
// the start of the stream.
func (s *sender) Send(ctx context.Context, dir safefile.Dir, src dataset.Source, base uuid.UUID, from int64,
	w io.Writer, progress backends.Progress) (out backends.Stream, err error) {
	image, err := s.OpenSnapshot(dir, src.Snapshot)
	if err != nil {
		return out, err
	}
	defer image.Close()
	fi, err := image.Stat()
	if err != nil {
		return out, err
	}
	ranges, err := s.ranges(dir, base, src.Snapshot, image)
	if err != nil {
		return out, err
	}
	s.comparison.forget()
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

// sendRanges writes ranges of an image to a stream.
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

// sendRange writes one range of an image to a stream.
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
func (s *sender) ranges(dir safefile.Dir, base, snapshot uuid.UUID, image *os.File) ([]reflink.Range, error) {
	if base == uuid.Nil {
		return reflink.Data(image)
	}
	old, err := s.OpenSnapshot(dir, base)
	if err != nil {
		return nil, err
	}
	defer old.Close()
	if s.layout.Costly() {
		return s.comparison.changed(base, snapshot, old, image)
	}
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

// Same reports whether two points in time of a dataset have the same bytes.
func (s *sender) Same(dir safefile.Dir, ds, a, b uuid.UUID) (bool, error) {
	first, err := s.openPoint(dir, dataset.Source{Dataset: ds, Snapshot: a})
	if err != nil {
		return false, err
	}
	defer first.Close()
	second, err := s.openPoint(dir, dataset.Source{Dataset: ds, Snapshot: b})
	if err != nil {
		return false, err
	}
	defer second.Close()
	return reflink.Same(first, second)
}

// Changed measures the difference between two points in time of a dataset.
func (s *sender) Changed(dir safefile.Dir, older, newer dataset.Source) (backends.Change, error) {
	b, err := s.openPoint(dir, newer)
	if err != nil {
		return backends.Change{}, err
	}
	defer b.Close()
	ranges, err := s.rangesSince(dir, older, newer, b)
	return sum(ranges), err
}

// rangesSince returns the ranges in which newer, whose image is open, differs from older.
func (s *sender) rangesSince(dir safefile.Dir, older, newer dataset.Source, image *os.File) ([]reflink.Range, error) {
	fromEmpty := older.Dataset == uuid.Nil
	switch {
	case !fromEmpty && older.Dataset != newer.Dataset:
		return nil, dataset.Errorf(dataset.ErrUnsupported, "they belong to different datasets")
	case newer.Snapshot != uuid.Nil && (fromEmpty || older.Snapshot != uuid.Nil):
		return s.ranges(dir, older.Snapshot, newer.Snapshot, image)
	case fromEmpty:
		return reflink.Data(image)
	}
	old, err := s.openPoint(dir, older)
	if err != nil {
		return nil, err
	}
	defer old.Close()
	return reflink.Changed(old, image)
}

// openPoint opens the image of a snapshot, or of the head if point names no snapshot.
func (s *sender) openPoint(dir safefile.Dir, point dataset.Source) (*os.File, error) {
	if point.Snapshot == uuid.Nil {
		f, err := dir.Open(s.layout.Image(headItem))
		if errors.Is(err, os.ErrNotExist) {
			err = shelf.NoHeadError(point.Dataset)
		}
		return f, err
	}
	return s.OpenSnapshot(dir, point.Snapshot)
}
