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
	"github.com/droverhq/drover/internal/linux/crypt"
	"github.com/droverhq/drover/internal/linux/fsctl"
	"github.com/droverhq/drover/internal/linux/mkfs"
	"github.com/droverhq/drover/internal/safefile"
)

// received reports how much of a snapshot a folder has.
func (p *Pool) received(f *shelf.Folder, snapshot uuid.UUID) (out backends.Received, err error) {
	dir := f.Dir
	if _, err := dir.Lstat(p.layout.Image(snapshot.String())); err == nil {
		var s receivedSnapshot
		if err := shelf.ReadJSON(dir, snapshotRecord(snapshot), &s); err != nil {
			return out, dataset.Errorf(dataset.ErrCorrupt, "cannot read the record of snapshot %s: %w", snapshot, err)
		}
		return backends.Received{Complete: true, Stream: s.Stream}, nil
	}
	if f.State != backends.EntryCopy {
		return out, nil
	}
	if _, err := dir.Lstat(p.layout.Image(partItem)); err != nil {
		return out, safefile.AbsentIsFine(err)
	}
	partial, err := readPartial(dir)
	if err != nil || partial.Header.Snapshot != snapshot {
		return out, nil // it cannot be used, or belongs to another snapshot
	}
	return backends.Received{Bytes: partial.Mark.Offset, Base: partial.Header.Base}, nil
}

// Receive implements backends.Copier.
func (p *Pool) Receive(ctx context.Context, d backends.Delivery, r io.Reader,
	progress backends.Progress) (out backends.Stream, err error) {
	defer backends.Wrap(&err, "receive snapshot %s of dataset %s", d.Snapshot.ID, d.Dataset.ID)
	f, err := p.MakeCopy(d.Dataset, p.room)
	if err != nil {
		return out, err
	}
	defer f.Close()
	p.step("receive.recorded")
	received, err := p.received(f, d.Snapshot.ID)
	dir := f.Dir
	switch {
	case err != nil:
		return out, err
	case received.Complete:
		return received.Stream, p.layout.Flush(dir)
	}
	if err := d.CheckResume(received); err != nil {
		return out, err
	}
	if err := p.room(); err != nil {
		return out, err
	}
	in, err := p.openStream(dir, d, r)
	if err != nil {
		return out, err
	}
	rcv := &receiving{to: p, dir: dir, in: in, snapshot: d.Snapshot, progress: progress}
	return rcv.run(ctx)
}

// receiving is one run of Receive.
type receiving struct {
	to          *Pool
	dir         safefile.Dir
	image       *os.File
	base        *baseSharing // nil before the sharing of the base begins, or if it is not needed: see startBase
	equalsBase  bool         // the stream contains no difference, and image is that of the base
	in          *stream.Reader
	snapshot    dataset.Snapshot
	progress    backends.Progress
	done        stream.Mark // the image contains everything before this position
	safe        int64       // position in the stream of the last checkpoint, finished or not
	flushing    chan error  // result of the checkpoint that is under way
	flushFailed bool        // a flush has failed: see record

	roomChecked int64 // position in the stream up to which the room was checked
	writtenBack int64 // offset in the image up to which the kernel has begun to write to the disk
}

// The distance between two checkpoints is 1/checkpointPart of the bytes that were received, but at least
// checkpointEvery and at most checkpointMost bytes. Because the distance grows, an interruption loses only a small part
// of the received bytes, and flushes are rare on a fast link. (A flush delays other work of the disk.)
//
// While a flush is in progress, further bytes may arrive: checkpointLag bytes, or twice the distance if that is more.
// So on a busy disk, a power cut can lose the bytes of the flush in progress and the bytes that arrived during the
// flush.
const (
	checkpointEvery = 4 << 20
	checkpointPart  = 16
	checkpointMost  = 64 << 20
	checkpointLag   = 32 << 20
)

// tuning sets how a stream is received. Tests change it.
type tuning struct {
	Every int64 // least bytes of a stream between two checkpoints
	Lag   int64 // most bytes that may arrive while a checkpoint is being flushed
	Part  int64 // bytes of a base that are shared at once
	// Ahead makes the kernel begin to write received bytes before a checkpoint flushes them. A test that cuts the power
	// turns Ahead off, because early writes would hide a missing flush.
	Ahead bool
	// Fdatasync flushes an image that is being received. It is fdatasync(2), unless a test makes it fail.
	Fdatasync func(*os.File) error
}

// defaultTuning returns the tuning of a pool in use.
func defaultTuning() *tuning {
	return &tuning{
		Every: checkpointEvery, Lag: checkpointLag, Part: sharedPart, Ahead: true,
		Fdatasync: func(f *os.File) error { return unix.Fdatasync(int(f.Fd())) },
	}
}

// checkpointDistance returns how many bytes of the stream are between the last checkpoint and the next one.
func (r *receiving) checkpointDistance() int64 {
	return max(r.to.backend.tuning.Every, min(r.done.Offset/checkpointPart, checkpointMost))
}

// run receives the stream and makes the snapshot.
func (r *receiving) run(ctx context.Context) (out backends.Stream, err error) {
	p := r.to
	if r.image, err = r.dir.OpenFile(p.layout.Image(partItem), os.O_RDWR); err != nil {
		return out, err
	}
	defer func() { _ = r.image.Close() }()
	defer func() { _ = r.wait() }()
	p.step("receive.started")
	if r.done, err = r.in.Mark(); err != nil {
		return out, err
	}
	r.safe, r.roomChecked = r.done.Offset, r.done.Offset
	defer func() { r.base.close() }()
	err = r.apply(ctx)
	if err == nil {
		err = r.complete(ctx)
	}
	if fErr := r.wait(); err == nil {
		err = fErr
	}
	if err == nil {
		err = r.checkFilesystem()
	}
	switch {
	case errors.Is(err, dataset.ErrCorrupt):
		return out, errors.Join(err, dropPartial(p.layout, r.dir))
	case err != nil:
		// Record a last checkpoint. If that fails, the next Receive resumes from an earlier one.
		if !r.flushFailed {
			_ = r.record()()
		}
		return out, err
	}
	return r.finish()
}

// apply writes the ranges of the stream to the image.
func (r *receiving) apply(ctx context.Context) error {
	for {
		if err := ctx.Err(); err != nil {
			return err
		}
		c, err := r.in.Next()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
		if err := r.startBase(ctx); err != nil {
			return err
		}
		if err := r.base.waitUntil(c.Offset + c.Length); err != nil {
			return err
		}
		if c.Data != nil {
			_, err = r.image.WriteAt(c.Data, c.Offset)
		} else {
			err = unix.Fallocate(int(r.image.Fd()), unix.FALLOC_FL_PUNCH_HOLE|unix.FALLOC_FL_KEEP_SIZE, c.Offset,
				c.Length)
		}
		if err != nil {
			return fmt.Errorf("write %s: %w", r.image.Name(), err)
		}
		if r.done, err = r.in.Mark(); err != nil {
			return err
		}
		if r.progress != nil {
			r.progress(r.done.Offset, 0)
		}
		if err := r.checkpoint(); err != nil {
			return err
		}
	}
}

// checkpoint records the progress while the stream continues. A flush can take long, so the next checkpoint covers
// everything that arrived during the present one. There is one checkpoint at a time. The link slows down only if the
// disk is always slower than the link.
func (r *receiving) checkpoint() error {
	if r.done.Offset-r.roomChecked >= r.to.backend.tuning.Every {
		if err := r.room(); err != nil {
			return err
		}
		r.startWriteback()
		r.roomChecked = r.done.Offset
	}
	unrecorded, due := r.done.Offset-r.safe, r.checkpointDistance()
	underWay := r.flushing != nil && len(r.flushing) == 0
	if unrecorded < due || underWay && unrecorded < max(r.to.backend.tuning.Lag, 2*due) {
		return nil
	}
	if err := r.wait(); err != nil {
		return err
	}
	r.safe = r.done.Offset
	record := r.record()
	r.to.step("receive.written")
	r.flushing = make(chan error, 1)
	go func() { r.flushing <- record() }()
	return nil
}

// startWriteback tells the kernel to begin writing the received bytes, so that the next flush has little left to write.
// It is a hint: if it has no effect, the flush writes the bytes and reports the error.
func (r *receiving) startWriteback() {
	if !r.to.backend.tuning.Ahead {
		return
	}
	from := r.writtenBack
	r.writtenBack = r.done.End
	_ = unix.SyncFileRange(int(r.image.Fd()), from, r.writtenBack-from, unix.SYNC_FILE_RANGE_WRITE)
}

// room fails with ErrNoSpace if the pool is nearly full, also after a flush.
func (r *receiving) room() error {
	check := func() error {
		free, size, err := fsctl.SpaceOf(r.dir.File)
		if err != nil {
			return err
		}
		return backends.CheckRoom(r.to.name, dataset.Size(free), dataset.Size(size))
	}
	if check() == nil {
		return nil
	}
	if err := r.to.layout.Flush(r.dir); err != nil {
		return err
	}
	return check()
}

// wait waits for a checkpoint that is under way.
func (r *receiving) wait() error {
	if r.flushing == nil {
		return nil
	}
	err := <-r.flushing
	r.flushing = nil
	r.to.step("receive.flushed")
	return err
}

// record returns a function that flushes the image and records the present position. No flush may follow a failed one:
// the kernel treats the pages that it could not write as clean, so the next flush would succeed without them (fsync(2),
// "NOTES"). After a failed flush, Receive fails. The next Receive opens the file again, and writes the stream from the
// last recorded position on.
func (r *receiving) record() func() error {
	partial := partialRecord{Header: r.in.Header, Mark: r.done}
	return func() error {
		if err := r.to.backend.tuning.Fdatasync(r.image); err != nil {
			r.flushFailed = true
			return fmt.Errorf("flush %s: %w", r.image.Name(), err)
		}
		return r.to.records.Write(r.dir, partFile, partial)
	}
}

// checkFilesystem fails unless the image holds the filesystem that the header names.
func (r *receiving) checkFilesystem() error {
	fs, _, err := superblock(r.image)
	if err == nil && fs != r.in.Header.Filesystem {
		err = stream.Corrupt("its image contains %q instead of the %q of its header", fs, r.in.Header.Filesystem)
	}
	return err
}

// seal gives the received image the name of its snapshot.
func (r *receiving) seal() (durable bool, err error) {
	p, id, base := r.to, r.snapshot.ID.String(), r.in.Header.Base.String()
	if !r.equalsBase {
		return p.layout.Seal(r.dir, partItem, id)
	}
	shared, err := p.share(r.dir, id, base)
	if err == nil && !shared {
		_, err = p.layout.Clone(r.dir, id, r.dir, base, true)
	}
	if err != nil {
		return false, err
	}
	return false, p.layout.Remove(r.dir, partItem)
}

// finish makes the verified image a snapshot.
func (r *receiving) finish() (backends.Stream, error) {
	p, out := r.to, r.in.Stream()
	if err := r.image.Sync(); err != nil {
		return out, err
	}
	p.step("receive.verified")
	record := receivedSnapshot{r.snapshot, out}
	if err := p.records.Write(r.dir, snapshotRecord(r.snapshot.ID), record); err != nil {
		return out, err
	}
	p.step("receive.noted")
	durable, err := r.seal()
	if err != nil {
		return out, err
	}
	p.step("receive.sealed")
	// If the snapshot is durable already, no flush is needed: a power cut can only restore the record of the part, and
	// the next operation removes that record.
	if err := safefile.AbsentIsFine(r.dir.Remove(partFile)); err != nil || durable {
		return out, err
	}
	return out, p.layout.Flush(r.dir)
}

// partialRecord is the record of the received part of a snapshot.
type partialRecord struct {
	Header stream.Header `json:"header"`
	// Everything before the mark is in the image and on the disk. The image contains the base up to there.
	Mark stream.Mark `json:"through"`
}

// readPartial reads the record of the received part of a snapshot.
func readPartial(dir safefile.Dir) (partial partialRecord, err error) {
	return partial, shelf.ReadJSON(dir, partFile, &partial)
}

// receivedSnapshot is the record of a snapshot that was received.
type receivedSnapshot struct {
	dataset.Snapshot
	Stream backends.Stream `json:"stream,omitzero"`
}

// openStream reads the beginning of a stream, or resumes an interrupted stream.
func (p *Pool) openStream(dir safefile.Dir, d backends.Delivery, r io.Reader) (*stream.Reader, error) {
	if d.From == 0 {
		in, err := stream.NewReader(r)
		if err == nil {
			err = checkHeader(in.Header, d)
		}
		if err != nil {
			return nil, err
		}
		in.Limit = int64(in.Header.Size)
		return in, p.startPartial(dir, in.Header)
	}
	if err := p.dropHead(dir); err != nil {
		return nil, err
	}
	partial, err := readPartial(dir)
	if err != nil {
		return nil, err
	}
	in, err := stream.Resume(r, partial.Header, partial.Mark)
	if err != nil {
		return nil, errors.Join(err, dropPartial(p.layout, dir))
	}
	in.Limit = int64(in.Header.Size)
	return in, nil
}

// kind is that of the streams: their ranges are those of an image.
const kind = "loop"

// blockSize divides the size of each image, in bytes.
const blockSize = 4096

// checkHeader fails unless the header of a stream matches the delivery that announced the stream, and describes an
// image.
func checkHeader(h stream.Header, d backends.Delivery) error {
	if err := h.Check(kind, d); err != nil {
		return err
	}
	if h.Size == 0 || h.Size%blockSize != 0 || h.Size > mkfs.MaxDevice+crypt.Overhead {
		return stream.Corrupt("an image cannot have %d bytes", h.Size)
	}
	return nil
}

// startPartial makes the image that a stream is written to. If cloning is cheap, the image is a clone of the base.
// Otherwise it is empty, and the blocks of the base are added while the stream arrives.
func (p *Pool) startPartial(dir safefile.Dir, h stream.Header) error {
	base := h.Base.String()
	if _, err := p.imageSize(dir, base); h.Base != uuid.Nil && errors.Is(err, os.ErrNotExist) {
		return dataset.Errorf(dataset.ErrNotFound,
			"the copy lacks snapshot %s, the base of the stream", h.Base)
	}
	if err := p.dropHead(dir); err != nil {
		return err
	}
	if err := dropPartial(p.layout, dir); err != nil {
		return err
	}
	if h.Base == uuid.Nil || p.layout.Costly() {
		image, err := p.layout.Create(dir, partItem)
		if err != nil {
			return err
		}
		return errors.Join(image.Truncate(int64(h.Size)), image.Close())
	}
	if _, err := p.layout.Clone(dir, partItem, dir, base, false); err != nil {
		return err
	}
	image, err := dir.OpenFile(p.layout.Image(partItem), os.O_RDWR)
	if err != nil {
		return err
	}
	return errors.Join(image.Truncate(int64(h.Size)), image.Close())
}

// dropPartial removes the received part of a snapshot. It removes the record first.
func dropPartial(l layout, dir safefile.Dir) error {
	if err := safefile.AbsentIsFine(dir.Remove(partFile)); err != nil {
		return err
	}
	return l.Remove(dir, partItem)
}
