package zfs

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strconv"
	"strings"
	"time"

	"github.com/google/uuid"

	"github.com/droverhq/drover/backends"
	"github.com/droverhq/drover/backends/shelf"
	"github.com/droverhq/drover/backends/stream"
	"github.com/droverhq/drover/dataset"
	"github.com/droverhq/drover/internal/run"
)

// streamLimit bounds one send or receive. It is long because a slow receiver on the other host can block the stream.
const streamLimit = 30 * 24 * time.Hour

// Send implements backends.Sender. The stream contains the output of zfs send, which is the same each time. Encrypted
// data is sent encrypted and without its key.
func (p *Pool) Send(ctx context.Context, src dataset.Source, base uuid.UUID, from int64, w io.Writer,
	progress backends.Progress) (out backends.Stream, err error) {
	defer backends.Wrap(&err, "send snapshot %s of dataset %s", src.Snapshot, src.Dataset)
	f, err := p.FindDatasetOrCopy(src.Dataset)
	if err != nil {
		return out, err
	}
	defer f.Close()
	s, err := readSnapshot(f, src.Snapshot)
	if err != nil {
		return out, err
	}
	older := ""
	if base != uuid.Nil {
		b, err := readSnapshot(f, base)
		if err != nil {
			return out, err
		}
		older = p.snapshotName(f.ID, b.FS, base)
	}
	h := stream.Header{Kind: Name, Dataset: src.Dataset, Snapshot: src.Snapshot, Base: base, Size: s.Refquota}
	return stream.Send(w, h, from, progress, func(w io.Writer) error {
		return p.send(ctx, older, p.snapshotName(f.ID, s.FS, s.ID), w)
	})
}

// sendArgs returns the arguments of zfs for the stream of the snapshot name. If older is not empty, it is the base.
func (p *Pool) sendArgs(ctx context.Context, older, name string) ([]string, error) {
	args := []string{"send"}
	if !p.fs.fuse {
		args = append(args, "-L") // always: ZFS rejects a stream with large blocks after one without, and the reverse
	}
	if p.encrypts() {
		key, err := p.tool.value(ctx, keyProperty, name)
		if err != nil {
			return nil, err
		}
		if key != "-" {
			args = append(args, "-w")
		}
	}
	if older != "" {
		args = append(args, "-i", older)
	}
	return append(args, name), nil
}

// send writes the stream of the snapshot name to w. It returns dataset.ErrUnsupported if older is not an ancestor of
// name.
func (p *Pool) send(ctx context.Context, older, name string, w io.Writer) error {
	args, err := p.sendArgs(ctx, older, name)
	if err != nil {
		return err
	}
	output := &keptError{w: w}
	_, err = p.tool.runner.Run(ctx, run.Command{Name: program, Args: args, Timeout: streamLimit, Stdout: output})
	if output.err != nil { // the error of zfs would only say that its output was closed
		return output.err
	}
	return unrelated(classify(err))
}

// unrelated returns err as dataset.ErrUnsupported if the two snapshots are unrelated. It returns all other errors
// unchanged.
func unrelated(err error) error {
	if errors.Is(err, errUnrelated) {
		return dataset.Errorf(dataset.ErrUnsupported, "zfs sends differences only to an ancestor of the "+
			"snapshot: %w", err)
	}
	return err
}

// keptError passes writes to w, and keeps the error of the last failed write.
type keptError struct {
	w   io.Writer
	err error
}

func (k *keptError) Write(b []byte) (int, error) {
	n, err := k.w.Write(b)
	if err != nil {
		k.err = err
	}
	return n, err
}

// Changed implements backends.Sender. OpenZFS estimates the change between two snapshots without reading their data.
// With zfs-fuse, Changed reads the complete stream.
func (p *Pool) Changed(ctx context.Context, older, newer dataset.Source) (backends.Change, error) {
	return p.changed(ctx, older, newer, p.measureStream)
}

// Same implements backends.Sender.
func (p *Pool) Same(ctx context.Context, ds, a, b uuid.UUID) (bool, error) {
	_, err := p.changed(ctx, dataset.Source{Dataset: ds, Snapshot: a}, dataset.Source{Dataset: ds, Snapshot: b},
		p.differs)
	if errors.Is(err, errDiffers) || errors.Is(err, errUnrelated) {
		return false, nil
	}
	return err == nil, err
}

func (p *Pool) changed(ctx context.Context, older, newer dataset.Source,
	compare func(ctx context.Context, older, newer string) (backends.Change, error)) (c backends.Change, err error) {
	defer backends.Wrap(&err, "compare two snapshots of dataset %s", newer.Dataset)
	if older.Dataset != uuid.Nil && older.Dataset != newer.Dataset {
		return c, dataset.Errorf(dataset.ErrUnsupported, "they belong to different datasets")
	}
	f, err := p.Shelf.FindDatasetOrCopy(newer.Dataset)
	if err != nil {
		return c, err
	}
	defer f.Close()
	newerName, done, err := p.openPoint(ctx, f, newer.Snapshot)
	if err != nil {
		return c, err
	}
	defer done()
	if older.Dataset == uuid.Nil {
		return compare(ctx, "", newerName)
	}
	olderName, oldDone, err := p.openPoint(ctx, f, older.Snapshot)
	if err != nil {
		return c, err
	}
	defer oldDone()
	return compare(ctx, olderName, newerName)
}

// openPoint returns the name of the snapshot id. If id is nil, it takes a temporary snapshot of the head. The caller
// must call done, which destroys the temporary snapshot.
func (p *Pool) openPoint(ctx context.Context, f *shelf.Folder, id uuid.UUID) (name string, done func(), err error) {
	if id != uuid.Nil {
		s, err := readSnapshot(f, id)
		return p.snapshotName(f.ID, s.FS, id), func() {}, err
	}
	if f.State == backends.EntryCopy {
		return "", nil, shelf.NoHeadError(f.ID)
	}
	fs, err := headName(f.Dir, f.ID)
	if err != nil {
		return "", nil, err
	}
	return p.temporarySnapshot(ctx, f, fs)
}

// temporarySnapshot takes a temporary snapshot of a filesystem. done destroys the snapshot. After a crash, the next
// Reap destroys it. Reap does not touch the snapshot while the folder is open.
func (p *Pool) temporarySnapshot(ctx context.Context, f *shelf.Folder, fs string) (name string, done func(),
	err error) {
	name = p.snapshotName(f.ID, fs, uuid.New())
	if err := p.tool.zfs(ctx, "snapshot", name); err != nil {
		return "", nil, noSpace(err)
	}
	return name, func() {
		after, cancel := context.WithTimeout(context.WithoutCancel(ctx), cleanupLimit)
		defer cancel()
		_ = p.tool.retryBusy(after, "destroy", name)
	}, nil
}

// differs returns errDiffers if two snapshots differ.
func (p *Pool) differs(ctx context.Context, older, newer string) (c backends.Change, err error) {
	return p.readDifference(ctx, older, newer, true)
}

// readDifference reads the stream of a snapshot and returns the change in it. If first is true, it stops at the first
// difference with errDiffers.
func (p *Pool) readDifference(ctx context.Context, older, newer string, first bool) (backends.Change, error) {
	r, w := io.Pipe()
	sent := make(chan error, 1)
	go func() {
		err := p.send(ctx, older, newer, w)
		_ = w.CloseWithError(err)
		sent <- err
	}()
	s, err := readStream(r, first)
	_ = r.CloseWithError(errDiffers)
	if sErr := <-sent; sErr != nil && !errors.Is(sErr, errDiffers) {
		err = sErr
	}
	return s.Change, err
}

// measureStream returns how much data the stream of a snapshot has.
func (p *Pool) measureStream(ctx context.Context, older, newer string) (c backends.Change, err error) {
	if p.fs.fuse {
		c, err = p.readDifference(ctx, older, newer, false)
		c.Zeroed = 0 // the figure also includes blocks after the end of files, and objects after the last used one
		return c, err
	}
	args, err := p.sendArgs(ctx, older, newer)
	if err != nil {
		return c, err
	}
	res, err := p.tool.runner.Run(ctx, run.Command{
		Name:    program,
		Args:    append([]string{args[0], "-nP"}, args[1:]...),
		Timeout: streamLimit,
	})
	if err != nil {
		return c, unrelated(classify(err))
	}
	for line := range strings.Lines(string(res.Stdout)) {
		if text, ok := strings.CutPrefix(strings.TrimSpace(line), "size\t"); ok {
			c.Bytes, err = strconv.ParseInt(text, 10, 64)
			return c, err
		}
	}
	return c, fmt.Errorf("zfs did not report the size of the stream of %s", newer)
}

// Received implements backends.Copier.
func (p *Pool) Received(_ context.Context, ds, snapshot uuid.UUID) (backends.Received, error) {
	return p.Shelf.Received(ds, snapshot, receivedStream)
}

// receivedStream describes the stream of a complete snapshot.
func receivedStream(f *shelf.Folder, snapshot uuid.UUID) (backends.Stream, error) {
	s, err := readSnapshot(f, snapshot)
	return s.Stream, err
}

// Receive implements backends.Copier. It collects the stream in a file, and passes it to zfs receive once the stream is
// complete and verified.
func (p *Pool) Receive(ctx context.Context, d backends.Delivery, r io.Reader,
	progress backends.Progress) (out backends.Stream, err error) {
	defer backends.Wrap(&err, "receive snapshot %s of dataset %s", d.Snapshot.ID, d.Dataset.ID)
	defer func() { err = noSpace(err) }()
	f, err := p.Shelf.MakeCopy(d.Dataset, func() error {
		if err := p.room(); err != nil {
			return err
		}
		return p.vacate(ctx, d.Dataset.ID)
	})
	if err != nil {
		return out, err
	}
	defer f.Close()
	out, complete, err := f.BeginReceive(d, receivedStream)
	if err != nil || complete {
		return out, err
	}
	if err := p.room(); err != nil {
		return out, err
	}
	base := func(id uuid.UUID) error {
		_, err := readSnapshot(f, id)
		return err
	}
	if err := p.dropHead(ctx, f); err != nil {
		return out, err
	}
	s := f.Spool(func(came int64) error { return p.roomFor(ctx, came, 0) }, func(string) {})
	if out, err = s.Receive(ctx, d, Name, r, progress, base); err != nil {
		return out, err
	}
	if err := p.roomFor(ctx, out.Bytes, out.Bytes); err != nil {
		return out, err
	}
	fs, err := p.applyStream(ctx, f, d)
	if err != nil {
		if errors.Is(err, dataset.ErrCorrupt) {
			err = errors.Join(err, stream.Drop(f.Dir))
		}
		return out, err
	}
	if err := shelf.WriteJSON(f.Dir, recordOf(d.Snapshot.ID), snapshot{
		Snapshot: d.Snapshot,
		FS:       fs,
		Refquota: out.Size,
		Stream:   out,
	}, true); err != nil {
		return out, err
	}
	return out, stream.Drop(f.Dir)
}

// roomFor returns dataset.ErrNoSpace if the pool lacks the room for the rest of a transfer. written is the number of
// bytes that the transfer has written, and remaining the number that it will still write. ZFS may not have counted the
// written bytes yet: it counts them with its next transaction group.
func (p *Pool) roomFor(ctx context.Context, written, remaining int64) error {
	return backends.CheckRoomFor(p.name, p.status, written, remaining, func() error { return p.settle(ctx) })
}

// applyStream applies the collected stream: it checks the header of the stream against the delivery, and passes the
// stream to zfs receive. It returns the filesystem that contains the new snapshot.
func (p *Pool) applyStream(ctx context.Context, f *shelf.Folder, d backends.Delivery) (fs string, err error) {
	in, err := f.Dir.Open(stream.File)
	if err != nil {
		return "", err
	}
	defer in.Close()
	header, err := readStream(in, false)
	if err != nil {
		return "", err
	}
	if header.Raw != (d.Dataset.Encryption != nil) {
		return "", badStream("either it or its dataset is encrypted, but not both")
	}
	if header.Raw && !p.encrypts() {
		return "", p.cannotEncrypt()
	}
	if _, err := in.Seek(0, io.SeekStart); err != nil {
		return "", err
	}
	if err := p.makeRoot(ctx, d.Dataset, nil); err != nil && !errors.Is(err, errTaken) {
		return "", err
	}
	fs, args := headPrefix+uuid.NewString(), []string{"receive", "-u"} // never -F, and no name from the stream
	if d.Base == uuid.Nil && header.From != 0 {
		return "", badStream("it is a difference, but is marked as none")
	}
	if d.Base != uuid.Nil {
		base, origin, err := p.prepareBase(ctx, f, d.Base, header)
		if err != nil {
			return "", err
		}
		if base != "" {
			fs = base
		} else if !p.fs.fuse { // zfs-fuse finds the origin by itself
			args = append(args, "-o", "origin="+origin)
		}
	}
	name := p.snapshotName(f.ID, fs, d.Snapshot.ID)
	err = p.runWithInput(ctx, in, append(args, name)...)
	if err == nil {
		err = p.tool.zfs(ctx, "set", "canmount=noauto", p.root(f.ID)+"/"+fs)
	}
	if err != nil {
		p.discardReceived(ctx, name)
		return "", err
	}
	return fs, nil
}

// prepareBase prepares a filesystem to receive a difference to the base. If the base is the last snapshot of its
// filesystem, prepareBase rolls that filesystem back to the base, and returns its name as fs.
//
// If the base is not the last snapshot of a filesystem, fs is "", and the difference must be received into a clone of
// the base, whose name in ZFS is origin. prepareBase returns dataset.ErrCorrupt and backends.ErrBaseDiffers if the
// stream is a difference to another snapshot.
func (p *Pool) prepareBase(ctx context.Context, f *shelf.Folder, base uuid.UUID, header sentStream) (
	fs, origin string, err error,
) {
	b, err := readSnapshot(f, base)
	if err != nil {
		return "", "", err
	}
	origin = p.snapshotName(f.ID, b.FS, base)
	text, err := p.tool.value(ctx, "guid", origin)
	if errors.Is(err, errAbsent) {
		return "", "", dataset.Errorf(dataset.ErrCorrupt, "%s is missing", origin)
	}
	if err != nil {
		return "", "", err
	}
	if guid, err := strconv.ParseUint(text, 10, 64); err != nil || guid != header.From {
		return "", "", fmt.Errorf("%w: %w", backends.ErrBaseDiffers,
			badStream("it is a difference to snapshot %d of zfs, and the base is %s", header.From, text))
	}
	if header.Clone {
		return "", origin, nil
	}
	last, err := p.isLast(ctx, f, b)
	if err == nil && !last && p.fs.fuse {
		err = dataset.Errorf(dataset.ErrUnsupported,
			"zfs-fuse cannot receive a difference to a snapshot that is not the latest")
	}
	if err != nil || !last {
		return "", origin, err
	}
	return b.FS, origin, p.reuse(ctx, f, b, []string{"-o", "refquota=none"})
}

// runWithInput runs zfs with a stream as its input. It returns dataset.ErrCorrupt if zfs rejects the stream.
func (p *Pool) runWithInput(ctx context.Context, in *os.File, args ...string) error {
	_, err := p.tool.runner.Run(ctx, run.Command{Name: program, Args: args, Stdin: in, Timeout: streamLimit})
	err = classify(err)
	if errors.Is(err, errStream) {
		return dataset.Errorf(dataset.ErrCorrupt, "%w", err)
	}
	return err
}

// discardReceived destroys a snapshot after receiving it failed. It also destroys the filesystem of the snapshot if it
// has no other snapshot. Reap destroys what discard cannot destroy.
func (p *Pool) discardReceived(ctx context.Context, name string) {
	after, cancel := context.WithTimeout(context.WithoutCancel(ctx), cleanupLimit)
	defer cancel()
	fs, _, _ := strings.Cut(name, "@")
	if err := p.tool.zfs(after, "destroy", name); err == nil || errors.Is(err, errAbsent) {
		_ = p.tool.zfs(after, "destroy", fs)
	}
}
