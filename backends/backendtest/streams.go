package backendtest

import (
	"bytes"
	"io"
	"os"

	"github.com/google/uuid"

	"github.com/droverhq/drover/backends"
	"github.com/droverhq/drover/dataset"
	"github.com/droverhq/drover/internal/tree"
	"github.com/droverhq/drover/internal/tree/treetest"
)

// streams sends datasets from one pool to another.
type streams struct {
	Mounts
}

// stream returns the stream of a snapshot, or of its difference to base, and the description of the stream.
func (f *streams) stream(s dataset.Snapshot, base uuid.UUID) ([]byte, backends.Stream) {
	f.Helper()
	var out bytes.Buffer
	sent, err := f.Copier().Send(f.Ctx, f.Source(s), base, 0, &out, nil)
	f.OK(err)
	if sent.Base != base || (sent.Size == 0 && f.Can.OwnFilesystem) || sent.Bytes != int64(out.Len()) ||
		len(sent.Sum) != 64 {
		f.Errorf("a stream of %d bytes is reported as %+v", out.Len(), sent)
	}
	return out.Bytes(), sent
}

// planted makes a dataset with all kinds of files (treetest.Plant), a snapshot of it, and a plain directory with the
// same content to compare with.
func (f *streams) planted() (dataset.Dataset, dataset.Snapshot, *os.File) {
	f.Helper()
	d, plain := f.Create(), f.MakePlainDir()
	m := f.Mount(d.ID)
	treetest.Plant(f.T, m.Path, f.Unsupported...)
	f.OK(tree.Copy(f.Ctx, m.Root, plain, nil))
	m.Unmount()
	return d, f.TakeSnapshot(d), plain
}

func (f *streams) receive(d dataset.Dataset, s dataset.Snapshot, base uuid.UUID, from int64, r io.Reader) error {
	_, err := f.Copier().Receive(f.Ctx, backends.Delivery{Dataset: d, Snapshot: s, Base: base, From: from}, r, nil)
	return err
}

func (f *streams) received(s dataset.Snapshot) backends.Received {
	f.Helper()
	have, err := f.Copier().Received(f.Ctx, s.Dataset, s.ID)
	f.OK(err)
	return have
}

// transfer copies a snapshot to another pool, complete or as a difference to base.
func (f *streams) transfer(to *fixture, d dataset.Dataset, s dataset.Snapshot, base uuid.UUID) {
	f.Helper()
	data, sent := f.stream(s, base)
	f.Twice(func() error { return to.receive(d, s, base, 0, bytes.NewReader(data)) })
	if got := to.received(s); !got.Complete || got.Stream != sent {
		f.Errorf("received %+v, sent %+v", got, sent)
	}
}
