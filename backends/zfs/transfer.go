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
	"github.com/droverhq/drover/backends/spool"
	"github.com/droverhq/drover/backends/zfs/sendstream"
	"github.com/droverhq/drover/dataset"
	"github.com/droverhq/drover/internal/run"
)

// streamLimit bounds how long a stream takes: as long as who takes it does.
const streamLimit = 30 * 24 * time.Hour

// sender sends snapshots, and compares them.
type sender struct {
	*storage
	keys *datasetKeys
}

// Send implements backends.Sender: what zfs send makes of two snapshots, which is the same each
// time. Encrypted data is sent encrypted, without its key.
func (p *Pool) Send(ctx context.Context, src dataset.Source, base uuid.UUID, from int64, w io.Writer,
	progress backends.Progress) (backends.Stream, error) {
	out, err := p.sender.sendFrom(ctx, src, base, from, w, progress)
	if err != nil {
		return out, fmt.Errorf("send snapshot %s of dataset %s: %w", src.Snapshot, src.Dataset, err)
	}
	return out, nil
}

func (n *sender) sendFrom(ctx context.Context, src dataset.Source, base uuid.UUID, from int64, w io.Writer,
	progress backends.Progress) (out backends.Stream, err error) {
	f, err := n.shelf.FindAny(src.Dataset)
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
		older = n.snapshotName(f.ID, b.FS, base)
	}
	h := spool.Header{Kind: Name, Dataset: src.Dataset, Snapshot: src.Snapshot, Base: base, Size: s.Refquota}
	return spool.Send(w, h, from, progress, func(w io.Writer) error {
		return n.send(ctx, older, n.snapshotName(f.ID, s.FS, s.ID), w)
	})
}

// sendArgs returns the arguments for the stream of a snapshot. older is its base, if it has one.
func (n *sender) sendArgs(ctx context.Context, older, name string) ([]string, error) {
	args := []string{"send"}
	if !n.home.fuse {
		args = append(args, "-L") // once with and once without large blocks, they do not fit each other
	}
	if n.keys.encrypts() {
		key, err := n.tool.value(ctx, keyProperty, name)
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

// send writes the stream of a snapshot. dataset.ErrUnsupported: the older one is none that it
// came of.
func (n *sender) send(ctx context.Context, older, name string, w io.Writer) error {
	args, err := n.sendArgs(ctx, older, name)
	if err != nil {
		return err
	}
	kept := &keptError{w: w}
	_, err = n.tool.runner.Run(ctx, run.Command{Name: program, Args: args, Timeout: streamLimit, Stdout: kept})
	if kept.err != nil { // zfs learns only that its output is not read
		return kept.err
	}
	return unrelated(classify(err))
}

// unrelated gives a failure its kind.
func unrelated(err error) error {
	if errors.Is(err, errUnrelated) {
		return dataset.Errorf(dataset.ErrUnsupported, "zfs sends differences to what a snapshot came of alone: %w", err)
	}
	return err
}

// keptError keeps why nothing more could be written.
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

// Changed implements backends.Sender. Of two snapshots OpenZFS knows it, about, without reading
// them; for zfs-fuse all of the stream is read.
func (p *Pool) Changed(ctx context.Context, older, newer dataset.Source) (backends.Change, error) {
	c, err := p.sender.changed(ctx, older, newer, p.sender.measureStream)
	if err != nil {
		return backends.Change{}, fmt.Errorf("compare two points in time of dataset %s: %w", newer.Dataset, err)
	}
	return c, nil
}

// Same implements backends.Sender.
func (p *Pool) Same(ctx context.Context, ds, a, b uuid.UUID) (bool, error) {
	_, err := p.sender.changed(ctx, dataset.Source{Dataset: ds, Snapshot: a}, dataset.Source{Dataset: ds, Snapshot: b},
		p.sender.differs)
	switch {
	case err == nil:
		return true, nil
	case errors.Is(err, sendstream.ErrDiffers), errors.Is(err, errUnrelated):
		return false, nil
	}
	return false, fmt.Errorf("compare two points in time of dataset %s: %w", ds, err)
}

func (n *sender) changed(ctx context.Context, older, newer dataset.Source,
	compare func(ctx context.Context, older, newer string) (backends.Change, error)) (c backends.Change, err error) {
	if older.Dataset != uuid.Nil && older.Dataset != newer.Dataset {
		return c, dataset.Errorf(dataset.ErrUnsupported, "they are of two datasets")
	}
	f, err := n.shelf.FindAny(newer.Dataset)
	if err != nil {
		return c, err
	}
	defer f.Close()
	fresh, done, err := n.point(ctx, f, newer.Snapshot)
	if err != nil {
		return c, err
	}
	defer done()
	if older.Dataset == uuid.Nil {
		return compare(ctx, "", fresh)
	}
	old, oldDone, err := n.point(ctx, f, older.Snapshot)
	if err != nil {
		return c, err
	}
	defer oldDone()
	return compare(ctx, old, fresh)
}

// point returns the name of a snapshot, with the nil one of the head: one that goes when done is
// called.
func (n *sender) point(ctx context.Context, f *shelf.Folder, id uuid.UUID) (name string, done func(), err error) {
	if id != uuid.Nil {
		s, err := readSnapshot(f, id)
		return n.snapshotName(f.ID, s.FS, id), func() {}, err
	}
	if f.State == backends.EntryCopy {
		return "", nil, f.NoHead()
	}
	fs, err := headName(f.Root, f.ID)
	if err != nil {
		return "", nil, err
	}
	return n.frozen(ctx, f, fs)
}

// frozen takes a snapshot of a filesystem that goes when done is called, or with the next Reap:
// none while the folder is open.
func (n *sender) frozen(ctx context.Context, f *shelf.Folder, fs string) (name string, done func(), err error) {
	name = n.snapshotName(f.ID, fs, uuid.New())
	if err := n.tool.zfs(ctx, "snapshot", name); err != nil {
		return "", nil, noSpace(err)
	}
	return name, func() {
		after, cancel := context.WithTimeout(context.WithoutCancel(ctx), afterwards)
		defer cancel()
		_ = n.tool.patiently(after, "destroy", name)
	}, nil
}

// differs fails with sendstream.ErrDiffers when there is anything between two snapshots.
func (n *sender) differs(ctx context.Context, older, newer string) (c backends.Change, err error) {
	return n.read(ctx, older, newer, true)
}

// read reads the stream of a snapshot, to its first difference or all of it.
func (n *sender) read(ctx context.Context, older, newer string, first bool) (backends.Change, error) {
	r, w := io.Pipe()
	sent := make(chan error, 1)
	go func() {
		err := n.send(ctx, older, newer, w)
		_ = w.CloseWithError(err)
		sent <- err
	}()
	s, err := sendstream.Read(r, first)
	_ = r.CloseWithError(sendstream.ErrDiffers)
	if sErr := <-sent; sErr != nil && !errors.Is(sErr, sendstream.ErrDiffers) {
		err = sErr
	}
	return s.Change, err
}

// measureStream says how much the stream of a snapshot is.
func (n *sender) measureStream(ctx context.Context, older, newer string) (c backends.Change, err error) {
	if n.home.fuse {
		c, err = n.read(ctx, older, newer, false)
		c.Zeroed = 0 // this includes blocks behind the end of files, and behind the last possible file
		return c, err
	}
	args, err := n.sendArgs(ctx, older, newer)
	if err != nil {
		return c, err
	}
	res, err := n.tool.runner.Run(ctx, run.Command{
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
	return c, fmt.Errorf("zfs did not say how large the stream of %s is", newer)
}

// receiver receives snapshots of copies.
type receiver struct {
	*storage
	keys  *datasetKeys
	space *space
	heads *heads
	maker *maker
}

// Received implements backends.Copier.
func (p *Pool) Received(_ context.Context, ds, snapshot uuid.UUID) (backends.Received, error) {
	return p.shelf.Received(ds, snapshot, cameBy)
}

// cameBy returns the stream by which a complete snapshot came.
func cameBy(f *shelf.Folder, snapshot uuid.UUID) (backends.Stream, error) {
	s, err := readSnapshot(f, snapshot)
	return s.Stream, err
}

func (c *receiver) receive(ctx context.Context, d backends.Delivery, r io.Reader,
	progress backends.Progress) (out backends.Stream, err error) {
	f, err := c.shelf.MakeCopy(d.Dataset, func() error {
		if err := c.space.room(); err != nil {
			return err
		}
		return c.maker.vacate(ctx, d.Dataset.ID)
	})
	if err != nil {
		return out, err
	}
	defer f.Close()
	out, whole, err := f.BeginReceive(d, cameBy)
	if err != nil || whole {
		return out, err
	}
	if err := c.space.room(); err != nil {
		return out, err
	}
	base := func(id uuid.UUID) error {
		_, err := readSnapshot(f, id)
		return err
	}
	if err := c.heads.dropHead(ctx, f); err != nil {
		return out, err
	}
	s := f.Spool(func(came int64) error { return c.roomFor(ctx, came, 0) }, func(string) {})
	if out, err = s.Gather(ctx, d, Name, r, progress, base); err != nil {
		return out, err
	}
	if err := c.roomFor(ctx, out.Bytes, out.Bytes); err != nil {
		return out, err
	}
	fs, err := c.received(ctx, f, d)
	if err != nil {
		if errors.Is(err, dataset.ErrCorrupt) {
			err = errors.Join(err, spool.Drop(f.Root))
		}
		return out, err
	}
	if err := shelf.WriteJSON(f.Root, recordOf(d.Snapshot.ID), snapshot{
		Snapshot: d.Snapshot,
		FS:       fs,
		Refquota: out.Size,
		Stream:   out,
	}, true); err != nil {
		return out, err
	}
	return out, spool.Drop(f.Root)
}

// roomFor checks the room for the bytes that are still to come. ZFS may not have counted the bytes in written
// yet: it counts them with its next transaction group.
func (c *receiver) roomFor(ctx context.Context, written, wanted int64) error {
	status := func() dataset.PoolStatus { return c.space.status() }
	return backends.RoomFor(c.name, status, written, wanted, func() error { return c.space.settle(ctx) })
}

// received has zfs make a snapshot of the gathered stream, and returns the filesystem of the snapshot.
func (c *receiver) received(ctx context.Context, f *shelf.Folder, d backends.Delivery) (fs string, err error) {
	in, err := f.Root.Open(spool.File)
	if err != nil {
		return "", err
	}
	defer in.Close()
	is, err := sendstream.Read(in, false)
	if err != nil {
		return "", err
	}
	if is.Raw != (d.Dataset.Encryption != nil) {
		return "", sendstream.Bad("of it and its dataset one is encrypted, and the other is not")
	}
	if is.Raw && !c.keys.encrypts() {
		return "", c.keys.cannotEncrypt()
	}
	if _, err := in.Seek(0, io.SeekStart); err != nil {
		return "", err
	}
	if err := c.keys.makeRoot(ctx, d.Dataset, nil); err != nil && !errors.Is(err, errTaken) {
		return "", err
	}
	fs, args := headPrefix+uuid.NewString(), []string{"receive", "-u"} // never -F, and never to a name in the stream
	if d.Base == uuid.Nil && is.From != 0 {
		return "", sendstream.Bad("it is a difference, and says that it is none")
	}
	if d.Base != uuid.Nil {
		on, origin, err := c.onBase(ctx, f, d.Base, is)
		if err != nil {
			return "", err
		}
		if on != "" {
			fs = on
		} else if !c.home.fuse { // which finds it by itself
			args = append(args, "-o", "origin="+origin)
		}
	}
	name := c.snapshotName(f.ID, fs, d.Snapshot.ID)
	err = c.feed(ctx, in, append(args, name)...)
	if err == nil {
		err = c.tool.zfs(ctx, "set", "canmount=noauto", c.root(f.ID)+"/"+fs)
	}
	if err != nil {
		c.discard(ctx, name)
		return "", err
	}
	return fs, nil
}

// onBase returns the filesystem for a received difference, after a rollback to its last snapshot, the base.
// "": the difference needs a clone of the base, origin. dataset.ErrCorrupt: it is a difference to another
// snapshot.
func (c *receiver) onBase(ctx context.Context, f *shelf.Folder, base uuid.UUID, is sendstream.Stream) (
	fs, origin string, err error,
) {
	b, err := readSnapshot(f, base)
	if err != nil {
		return "", "", err
	}
	origin = c.snapshotName(f.ID, b.FS, base)
	text, err := c.tool.value(ctx, "guid", origin)
	if errors.Is(err, errAbsent) {
		return "", "", dataset.Errorf(dataset.ErrCorrupt, "%s is gone", origin)
	}
	if err != nil {
		return "", "", err
	}
	if guid, err := strconv.ParseUint(text, 10, 64); err != nil || guid != is.From {
		return "", "", sendstream.Bad("it is a difference to snapshot %d of zfs, and the base is %s", is.From, text)
	}
	if is.Clone {
		return "", origin, nil
	}
	last, err := c.heads.isLast(ctx, f, b)
	if err == nil && !last && c.home.fuse {
		err = dataset.Errorf(dataset.ErrUnsupported,
			"zfs-fuse cannot receive a difference to a snapshot after which others came")
	}
	if err != nil || !last {
		return "", origin, err
	}
	return b.FS, origin, c.heads.refit(ctx, f, b, []string{"-o", "refquota=none"})
}

// feed gives zfs a stream.
func (c *receiver) feed(ctx context.Context, in *os.File, args ...string) error {
	_, err := c.tool.runner.Run(ctx, run.Command{Name: program, Args: args, Stdin: in, Timeout: streamLimit})
	err = classify(err)
	if errors.Is(err, errStream) {
		return dataset.Errorf(dataset.ErrCorrupt, "%w", err)
	}
	return err
}

// discard destroys a useless received snapshot, with its filesystem if that has no other one. Reap destroys
// the rest of it.
func (c *receiver) discard(ctx context.Context, name string) {
	after, cancel := context.WithTimeout(context.WithoutCancel(ctx), afterwards)
	defer cancel()
	fs, _, _ := strings.Cut(name, "@")
	if err := c.tool.zfs(after, "destroy", name); err == nil || errors.Is(err, errAbsent) {
		_ = c.tool.zfs(after, "destroy", fs)
	}
}
