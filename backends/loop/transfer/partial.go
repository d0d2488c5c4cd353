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
	"github.com/droverhq/drover/dataset"
	"github.com/droverhq/drover/internal/linux/crypt"
	"github.com/droverhq/drover/internal/linux/mkfs"
)

// Partial is the record of the received part of a snapshot.
type Partial struct {
	Header framing.Header `json:"header"`
	// Everything before the mark is in the image and on the disk. The image contains the base up to there.
	Mark framing.Mark `json:"through"`
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
func (rc *Receiver) openStream(dir folder.Dir, d backends.Delivery, r io.Reader) (*framing.Reader, error) {
	if d.From == 0 {
		in, err := framing.NewReader(r)
		if err == nil {
			err = checkHeader(in.Header, d)
		}
		if err != nil {
			return nil, err
		}
		in.Limit = int64(in.Header.Size)
		return in, rc.startPartial(dir, in.Header)
	}
	if err := rc.DropHead(dir); err != nil {
		return nil, err
	}
	partial, err := ReadPartial(dir)
	if err != nil {
		return nil, err
	}
	in, err := framing.Resume(r, partial.Header, partial.Mark)
	if err != nil {
		return nil, errors.Join(err, DropPartial(rc.Layout, dir))
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
func checkHeader(h framing.Header, d backends.Delivery) error {
	if err := h.Check(kind, d); err != nil {
		return err
	}
	if h.Size == 0 || h.Size%blockSize != 0 || h.Size > mkfs.MaxDevice+crypt.Overhead {
		return framing.Corrupt("an image cannot have %d bytes", h.Size)
	}
	return nil
}

// startPartial makes the image that a stream is written to. If cloning is cheap, the image is a clone of the base.
// Otherwise it is empty, and the blocks of the base are added while the stream arrives.
func (rc *Receiver) startPartial(dir folder.Dir, h framing.Header) error {
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
		return errors.Join(image.Truncate(int64(h.Size)), image.Close())
	}
	if _, err := rc.Layout.Clone(dir, layout.Part, dir, base, false); err != nil {
		return err
	}
	image, err := dir.OpenFile(rc.Layout.Image(layout.Part), os.O_RDWR)
	if err != nil {
		return err
	}
	return errors.Join(image.Truncate(int64(h.Size)), image.Close())
}

// DropPartial removes the received part of a snapshot. It removes the record first.
func DropPartial(l layout.Layout, dir folder.Dir) error {
	if err := folder.AbsentIsFine(dir.Remove(layout.PartFile)); err != nil {
		return err
	}
	return l.Remove(dir, layout.Part)
}
