package transfer

import (
	"errors"
	"io"
	"os"

	"github.com/google/uuid"

	"github.com/droverhq/drover/backends"
	"github.com/droverhq/drover/backends/framing"
	"github.com/droverhq/drover/backends/loop/folder"
	"github.com/droverhq/drover/backends/loop/layout"
	"github.com/droverhq/drover/backends/loop/stream"
	"github.com/droverhq/drover/dataset"
)

// Partial is the record of the received part of a snapshot.
type Partial struct {
	Snapshot uuid.UUID     `json:"snapshot"`
	Header   stream.Header `json:"header"`
	// Everything before the mark is in the image and on the disk. The image contains the base up to there.
	Mark stream.Mark `json:"through"`
}

// ReadPartial reads the record of the received part of a snapshot.
func ReadPartial(dir folder.Dir) (partial Partial, err error) {
	return partial, layout.ReadRecord(dir, layout.PartFile, &partial)
}

// receivedSnapshot is the record of a snapshot that was received.
type receivedSnapshot struct {
	dataset.Snapshot
	Stream backends.Stream `json:"stream,omitzero"`
}

// openStream reads the beginning of a stream, or resumes an interrupted stream.
func (rc *Receiver) openStream(dir folder.Dir, d backends.Delivery, r io.Reader) (*stream.Decoder, error) {
	if d.From == 0 {
		in, err := stream.NewDecoder(r)
		if err != nil {
			return nil, err
		}
		if err := checkHeader(in.Header, d); err != nil {
			return nil, err
		}
		return in, rc.startPartial(dir, in.Header)
	}
	if err := rc.DropHead(dir); err != nil {
		return nil, err
	}
	partial, err := ReadPartial(dir)
	if err != nil {
		return nil, err
	}
	in, err := stream.ResumeDecoder(r, partial.Header, partial.Mark)
	if err != nil {
		return nil, errors.Join(err, DropPartial(rc.Layout, dir))
	}
	return in, nil
}

// checkHeader fails unless the header of a stream matches the delivery that announced the stream.
func checkHeader(h stream.Header, d backends.Delivery) error {
	switch {
	case h.Dataset != d.Dataset.ID || h.Snapshot != d.Snapshot.ID:
		return framing.Corrupt("it belongs to snapshot %s of dataset %s", h.Snapshot, h.Dataset)
	case h.Base != d.Base:
		return dataset.Errorf(dataset.ErrConflict, "the stream is a difference to snapshot %s, not to %s", h.Base,
			d.Base)
	}
	return nil
}

// startPartial makes the image that a stream is written to. If cloning is cheap, the image is a clone of the base.
// Otherwise it is empty, and the blocks of the base are added while the stream arrives.
func (rc *Receiver) startPartial(dir folder.Dir, h stream.Header) error {
	base := h.Base.String()
	if _, err := rc.Images.Size(dir, base); h.Base != uuid.Nil && errors.Is(err, os.ErrNotExist) {
		return dataset.Errorf(dataset.ErrNotFound,
			"the copy lacks snapshot %s, the base of the stream", h.Base)
	}
	if err := rc.DropHead(dir); err != nil {
		return err
	}
	if err := DropPartial(rc.Layout, dir); err != nil {
		return err
	}
	if h.Base == uuid.Nil || rc.Layout.Costly() {
		image, err := rc.Layout.Create(dir, layout.Part)
		if err != nil {
			return err
		}
		return errors.Join(image.Truncate(h.Size), image.Close())
	}
	if _, err := rc.Layout.Clone(dir, layout.Part, dir, base, false); err != nil {
		return err
	}
	image, err := dir.OpenFile(rc.Layout.Image(layout.Part), os.O_RDWR)
	if err != nil {
		return err
	}
	return errors.Join(image.Truncate(h.Size), image.Close())
}

// DropPartial removes the received part of a snapshot. It removes the record first.
func DropPartial(l layout.Layout, dir folder.Dir) error {
	if err := folder.AbsentIsFine(dir.Remove(layout.PartFile)); err != nil {
		return err
	}
	return l.Remove(dir, layout.Part)
}
