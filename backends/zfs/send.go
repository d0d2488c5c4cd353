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
	"github.com/droverhq/drover/dataset"
	"github.com/droverhq/drover/internal/run"
)

// streamLimit bounds how long a stream takes: as long as who takes it does.
const streamLimit = 30 * 24 * time.Hour

// Send implements backends.Sender: what zfs send makes of two snapshots, which is the same each
// time. Encrypted data is sent encrypted, without its key.
func (p *Pool) Send(ctx context.Context, src dataset.Source, base uuid.UUID, from int64, w io.Writer,
	progress backends.Progress) (backends.Stream, error) {
	out, err := p.sendFrom(ctx, src, base, from, w, progress)
	if err != nil {
		return out, fmt.Errorf("send snapshot %s of dataset %s: %w", src.Snapshot, src.Dataset, err)
	}
	return out, nil
}

func (p *Pool) sendFrom(ctx context.Context, src dataset.Source, base uuid.UUID, from int64, w io.Writer,
	progress backends.Progress) (out backends.Stream, err error) {
	f, err := p.shelf.FindAny(src.Dataset)
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
	if err := p.send(ctx, older, p.snapshotName(f.ID, s.FS, s.ID), spool.Counting(frames, progress)); err != nil {
		return out, err
	}
	return frames.Close()
}

// sendArgs returns the arguments for the stream of a snapshot. older is its base, if it has one.
func (p *Pool) sendArgs(ctx context.Context, older, name string) ([]string, error) {
	args := []string{"send"}
	if !p.home.fuse {
		args = append(args, "-L") // once with and once without large blocks, they do not fit each other
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

// send writes the stream of a snapshot. dataset.ErrUnsupported: the older one is none that it
// came of.
func (p *Pool) send(ctx context.Context, older, name string, w io.Writer) error {
	args, err := p.sendArgs(ctx, older, name)
	if err != nil {
		return err
	}
	kept := &keptError{w: w}
	_, err = p.tool.runner.Run(ctx, run.Command{Name: program, Args: args, Timeout: streamLimit, Stdout: kept})
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
	c, err := p.changed(ctx, older, newer, p.measureStream)
	if err != nil {
		return backends.Change{}, fmt.Errorf("compare two points in time of dataset %s: %w", newer.Dataset, err)
	}
	return c, nil
}

// Same implements backends.Sender.
func (p *Pool) Same(ctx context.Context, ds, a, b uuid.UUID) (bool, error) {
	_, err := p.changed(ctx, dataset.Source{Dataset: ds, Snapshot: a}, dataset.Source{Dataset: ds, Snapshot: b},
		p.differs)
	switch {
	case err == nil:
		return true, nil
	case errors.Is(err, errDiffers), errors.Is(err, errUnrelated):
		return false, nil
	}
	return false, fmt.Errorf("compare two points in time of dataset %s: %w", ds, err)
}

func (p *Pool) changed(ctx context.Context, older, newer dataset.Source,
	compare func(ctx context.Context, older, newer string) (backends.Change, error)) (c backends.Change, err error) {
	if older.Dataset != uuid.Nil && older.Dataset != newer.Dataset {
		return c, dataset.Errorf(dataset.ErrUnsupported, "they are of two datasets")
	}
	f, err := p.shelf.FindAny(newer.Dataset)
	if err != nil {
		return c, err
	}
	defer f.Close()
	fresh, done, err := p.point(ctx, f, newer.Snapshot)
	if err != nil {
		return c, err
	}
	defer done()
	if older.Dataset == uuid.Nil {
		return compare(ctx, "", fresh)
	}
	old, oldDone, err := p.point(ctx, f, older.Snapshot)
	if err != nil {
		return c, err
	}
	defer oldDone()
	return compare(ctx, old, fresh)
}

// point returns the name of a snapshot, with the nil one of the head: one that goes when done is
// called.
func (p *Pool) point(ctx context.Context, f *shelf.Folder, id uuid.UUID) (name string, done func(), err error) {
	if id != uuid.Nil {
		s, err := readSnapshot(f, id)
		return p.snapshotName(f.ID, s.FS, id), func() {}, err
	}
	if f.State == backends.EntryCopy {
		return "", nil, f.NoHead()
	}
	fs, err := headName(f.Root, f.ID)
	if err != nil {
		return "", nil, err
	}
	return p.frozen(ctx, f, fs)
}

// frozen takes a snapshot of a filesystem that goes when done is called, or with the next Reap:
// none while the folder is open.
func (p *Pool) frozen(ctx context.Context, f *shelf.Folder, fs string) (name string, done func(), err error) {
	name = p.snapshotName(f.ID, fs, uuid.New())
	if err := p.tool.zfs(ctx, "snapshot", name); err != nil {
		return "", nil, noSpace(err)
	}
	return name, func() {
		after, cancel := context.WithTimeout(context.WithoutCancel(ctx), afterwards)
		defer cancel()
		_ = p.tool.patiently(after, "destroy", name)
	}, nil
}

// differs fails with errDiffers when there is anything between two snapshots.
func (p *Pool) differs(ctx context.Context, older, newer string) (c backends.Change, err error) {
	return p.read(ctx, older, newer, true)
}

// read reads the stream of a snapshot, to its first difference or all of it.
func (p *Pool) read(ctx context.Context, older, newer string, first bool) (backends.Change, error) {
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

// measureStream says how much the stream of a snapshot is.
func (p *Pool) measureStream(ctx context.Context, older, newer string) (c backends.Change, err error) {
	if p.home.fuse {
		c, err = p.read(ctx, older, newer, false)
		c.Zeroed = 0 // this includes blocks behind the end of files, and behind the last possible file
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
	return c, fmt.Errorf("zfs did not say how large the stream of %s is", newer)
}
