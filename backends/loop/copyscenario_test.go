package loop

import (
	"bytes"
	"context"
	"errors"
	"io"
	"os"

	"github.com/google/uuid"

	"github.com/droverhq/drover/backends"
	"github.com/droverhq/drover/backends/stream"
	"github.com/droverhq/drover/dataset"
	"github.com/droverhq/drover/internal/linux/reflink"
)

// receiveAll sends the snapshots of c.Dataset, the second as a difference, and receives them as a copy of c.Other.
func receiveAll(ctx context.Context, p *Pool, c cast) error {
	if err := p.Snapshot(ctx, c.Keep, nil); err != nil {
		return err
	}
	base := uuid.Nil
	for _, s := range []dataset.Snapshot{c.Snapshot, c.Keep} {
		stream, err := readdressed(ctx, p, s, base, c.Other.ID)
		if err != nil {
			return err
		}
		have, err := p.Received(ctx, c.Other.ID, s.ID)
		if err != nil {
			return err
		}
		s.Dataset = c.Other.ID
		d := backends.Delivery{Dataset: c.Other, Snapshot: s, Base: base, From: have.Bytes}
		if _, err := p.Receive(ctx, d, bytes.NewReader(stream[have.Bytes:]), nil); err != nil {
			return err
		}
		base = s.ID
	}
	return nil
}

// readdressed sends a snapshot as that of another dataset.
func readdressed(ctx context.Context, p *Pool, s dataset.Snapshot, base, to uuid.UUID) ([]byte, error) {
	var sent, out bytes.Buffer
	if _, err := p.Send(ctx, at(s), base, 0, &sent, nil); err != nil {
		return nil, err
	}
	in, err := stream.NewReader(&sent)
	if err != nil {
		return nil, err
	}
	in.Header.Dataset = to
	w, err := stream.NewWriter(&out, in.Header, 0)
	for err == nil {
		var c stream.Range
		c, err = in.Next()
		switch {
		case err != nil:
		case c.Data == nil:
			err = w.Zeros(c.Offset, c.Length)
		default:
			err = w.Data(c.Offset, c.Data)
		}
	}
	if !errors.Is(err, io.EOF) {
		return nil, err
	}
	_, err = w.End()
	return out.Bytes(), err
}

// isCopy checks that c.Other is a copy with whole snapshots. Unless must is set, snapshots may be missing.
func (f *fixture) isCopy(c cast, must bool) {
	f.Helper()
	e, err := f.Stat(f.Context(), c.Other.ID)
	if errors.Is(err, dataset.ErrNotFound) && !must {
		return
	}
	f.must(err)
	if e.State != backends.EntryCopy || e.Problem != "" {
		f.Errorf("entry %+v", e)
	}
	for _, s := range []struct {
		snapshot dataset.Snapshot
		want     string
	}{{c.Snapshot, "one"}, {c.Keep, "two"}} {
		there := s.snapshot
		there.Dataset = c.Other.ID
		f.hasSnapshot(there, s.want, must)
		if must {
			f.sameBytes(s.snapshot, there)
		}
	}
}

// sameBytes compares two snapshots in all ranges in which either has data.
func (f *fixture) sameBytes(a, b dataset.Snapshot) {
	f.Helper()
	var images []*os.File
	for _, s := range []dataset.Snapshot{a, b} {
		image, err := f.openSnapshot(f.folderOf(s.Dataset).Dir, s.ID)
		f.must(err)
		defer image.Close()
		images = append(images, image)
	}
	for _, image := range images {
		data, err := reflink.Data(image)
		f.must(err)
		for _, r := range data {
			x, y := make([]byte, r.Length), make([]byte, r.Length)
			_, errX := images[0].ReadAt(x, r.Offset)
			_, errY := images[1].ReadAt(y, r.Offset)
			f.must(errors.Join(errX, errY))
			if !bytes.Equal(x, y) {
				f.Errorf("what came of snapshot %s differs in %d bytes at %d", a.ID, r.Length, r.Offset)
			}
		}
	}
}
