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
	"github.com/droverhq/drover/backends/zfs/sendstream"
	"github.com/droverhq/drover/dataset"
	"github.com/droverhq/drover/internal/run"
)

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
