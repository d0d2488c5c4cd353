package zfs

import (
	"context"
	"errors"
	"fmt"
	"io"
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
	frames, err := spool.NewWriter(w, spool.Header{
		Kind:     Name,
		Dataset:  src.Dataset,
		Snapshot: src.Snapshot,
		Base:     base,
		Size:     s.Refquota,
	}, from)
	if err != nil {
		return out, err
	}
	if err := n.send(ctx, older, n.snapshotName(f.ID, s.FS, s.ID), spool.Counting(frames, progress)); err != nil {
		return out, err
	}
	return frames.Close()
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
