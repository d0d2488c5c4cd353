package zfs

import (
	"context"
	"errors"
	"io"
	"os"
	"strconv"
	"strings"

	"github.com/google/uuid"

	"github.com/droverhq/drover/backends"
	"github.com/droverhq/drover/backends/shelf"
	"github.com/droverhq/drover/backends/spool"
	"github.com/droverhq/drover/dataset"
	"github.com/droverhq/drover/internal/run"
)

// Received implements backends.Copier.
func (p *Pool) Received(_ context.Context, ds, snapshot uuid.UUID) (backends.Received, error) {
	return p.shelf.Received(ds, snapshot, cameBy)
}

// cameBy returns the stream by which a complete snapshot came.
func cameBy(f *shelf.Folder, snapshot uuid.UUID) (backends.Stream, error) {
	s, err := readSnapshot(f, snapshot)
	return s.Stream, err
}

func (p *Pool) receive(ctx context.Context, d backends.Delivery, r io.Reader,
	progress backends.Progress) (out backends.Stream, err error) {
	f, err := p.shelf.MakeCopy(d.Dataset, func() error {
		if err := p.room(ctx); err != nil {
			return err
		}
		return p.vacate(ctx, d.Dataset.ID)
	})
	if err != nil {
		return out, err
	}
	defer f.Close()
	have, err := f.Received(d.Snapshot.ID, cameBy)
	switch {
	case err != nil:
		return out, err
	case have.Whole:
		return have.Last, errors.Join(spool.Drop(f.Root), shelf.SyncDir(f.Root))
	}
	if err := d.Follows(have); err != nil {
		return out, err
	}
	if err := p.room(ctx); err != nil {
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
	if out, err = s.Gather(ctx, d, Name, r, progress, base); err != nil {
		return out, err
	}
	if err := p.roomFor(ctx, out.Bytes, out.Bytes); err != nil {
		return out, err
	}
	fs, err := p.received(ctx, f, d)
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
func (p *Pool) roomFor(ctx context.Context, written, wanted int64) error {
	status := func() dataset.PoolStatus { return p.Status(ctx) }
	return backends.RoomFor(p.name, status, written, wanted, func() error { return p.settle(ctx) })
}

// received has zfs make a snapshot of the gathered stream, and returns the filesystem of the snapshot.
func (p *Pool) received(ctx context.Context, f *shelf.Folder, d backends.Delivery) (fs string, err error) {
	in, err := f.Root.Open(spool.File)
	if err != nil {
		return "", err
	}
	defer in.Close()
	is, err := readStream(in, false)
	if err != nil {
		return "", err
	}
	if is.raw != (d.Dataset.Encryption != nil) {
		return "", badStream("of it and its dataset one is encrypted, and the other is not")
	}
	if is.raw && !p.encrypts() {
		return "", p.cannotEncrypt()
	}
	if _, err := in.Seek(0, io.SeekStart); err != nil {
		return "", err
	}
	if err := p.makeRoot(ctx, d.Dataset, nil); err != nil && !errors.Is(err, errTaken) {
		return "", err
	}
	fs, args := headPrefix+uuid.NewString(), []string{"receive", "-u"} // never -F, and never to a name in the stream
	if d.Base == uuid.Nil && is.from != 0 {
		return "", badStream("it is a difference, and says that it is none")
	}
	if d.Base != uuid.Nil {
		on, origin, err := p.onBase(ctx, f, d.Base, is)
		if err != nil {
			return "", err
		}
		if on != "" {
			fs = on
		} else if !p.home.fuse { // which finds it by itself
			args = append(args, "-o", "origin="+origin)
		}
	}
	name := p.snapshotName(f.ID, fs, d.Snapshot.ID)
	err = p.feed(ctx, in, append(args, name)...)
	if err == nil {
		err = p.tool.zfs(ctx, "set", "canmount=noauto", p.root(f.ID)+"/"+fs)
	}
	if err != nil {
		p.discard(ctx, name)
		return "", err
	}
	return fs, nil
}

// onBase returns the filesystem for a received difference, after a rollback to its last snapshot, the base.
// "": the difference needs a clone of the base, origin. dataset.ErrCorrupt: it is a difference to another
// snapshot.
func (p *Pool) onBase(ctx context.Context, f *shelf.Folder, base uuid.UUID, is stream) (fs, origin string, err error) {
	b, err := readSnapshot(f, base)
	if err != nil {
		return "", "", err
	}
	origin = p.snapshotName(f.ID, b.FS, base)
	text, err := p.tool.value(ctx, "guid", origin)
	if errors.Is(err, errAbsent) {
		return "", "", dataset.Errorf(dataset.ErrCorrupt, "%s is gone", origin)
	}
	if err != nil {
		return "", "", err
	}
	if guid, err := strconv.ParseUint(text, 10, 64); err != nil || guid != is.from {
		return "", "", badStream("it is a difference to snapshot %d of zfs, and the base is %s", is.from, text)
	}
	if is.clone {
		return "", origin, nil
	}
	last, err := p.isLast(ctx, f, b)
	if err == nil && !last && p.home.fuse {
		err = dataset.Errorf(dataset.ErrUnsupported,
			"zfs-fuse cannot receive a difference to a snapshot after which others came")
	}
	if err != nil || !last {
		return "", origin, err
	}
	return b.FS, origin, p.refit(ctx, f, b, []string{"-o", "refquota=none"})
}

// feed gives zfs a stream.
func (p *Pool) feed(ctx context.Context, in *os.File, args ...string) error {
	_, err := p.tool.runner.Run(ctx, run.Command{Name: program, Args: args, Stdin: in, Timeout: streamLimit})
	err = classify(err)
	if errors.Is(err, errStream) {
		return dataset.Errorf(dataset.ErrCorrupt, "%w", err)
	}
	return err
}

// discard destroys a useless received snapshot, with its filesystem if that has no other one. Reap destroys
// the rest of it.
func (p *Pool) discard(ctx context.Context, name string) {
	after, cancel := context.WithTimeout(context.WithoutCancel(ctx), afterwards)
	defer cancel()
	fs, _, _ := strings.Cut(name, "@")
	if err := p.tool.zfs(after, "destroy", name); err == nil || errors.Is(err, errAbsent) {
		_ = p.tool.zfs(after, "destroy", fs)
	}
}
