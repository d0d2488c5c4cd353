package loop

import (
	"errors"
	"io"
	"os"

	"github.com/google/uuid"

	"github.com/droverhq/drover/backends"
	"github.com/droverhq/drover/backends/shelf"
	"github.com/droverhq/drover/backends/stream"
	"github.com/droverhq/drover/dataset"
	"github.com/droverhq/drover/internal/linux/crypt"
	"github.com/droverhq/drover/internal/linux/mkfs"
	"github.com/droverhq/drover/internal/safefile"
)

// partialRecord is the record of the received part of a snapshot.
type partialRecord struct {
	Header stream.Header `json:"header"`
	// Everything before the mark is in the image and on the disk. The image contains the base up to there.
	Mark stream.Mark `json:"through"`
}

// readPartial reads the record of the received part of a snapshot.
func readPartial(dir safefile.Dir) (partial partialRecord, err error) {
	return partial, shelf.ReadJSON(dir, partFile, &partial)
}

// receivedSnapshot is the record of a snapshot that was received.
type receivedSnapshot struct {
	dataset.Snapshot
	Stream backends.Stream `json:"stream,omitzero"`
}

// openStream reads the beginning of a stream, or resumes an interrupted stream.
func (p *Pool) openStream(dir safefile.Dir, d backends.Delivery, r io.Reader) (*stream.Reader, error) {
	if d.From == 0 {
		in, err := stream.NewReader(r)
		if err == nil {
			err = checkHeader(in.Header, d)
		}
		if err != nil {
			return nil, err
		}
		in.Limit = int64(in.Header.Size)
		return in, p.startPartial(dir, in.Header)
	}
	if err := p.dropHead(dir); err != nil {
		return nil, err
	}
	partial, err := readPartial(dir)
	if err != nil {
		return nil, err
	}
	in, err := stream.Resume(r, partial.Header, partial.Mark)
	if err != nil {
		return nil, errors.Join(err, dropPartial(p.layout, dir))
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
func checkHeader(h stream.Header, d backends.Delivery) error {
	if err := h.Check(kind, d); err != nil {
		return err
	}
	if h.Size == 0 || h.Size%blockSize != 0 || h.Size > mkfs.MaxDevice+crypt.Overhead {
		return stream.Corrupt("an image cannot have %d bytes", h.Size)
	}
	return nil
}

// startPartial makes the image that a stream is written to. If cloning is cheap, the image is a clone of the base.
// Otherwise it is empty, and the blocks of the base are added while the stream arrives.
func (p *Pool) startPartial(dir safefile.Dir, h stream.Header) error {
	base := h.Base.String()
	if _, err := p.imageSize(dir, base); h.Base != uuid.Nil && errors.Is(err, os.ErrNotExist) {
		return dataset.Errorf(dataset.ErrNotFound,
			"the copy lacks snapshot %s, the base of the stream", h.Base)
	}
	if err := p.dropHead(dir); err != nil {
		return err
	}
	if err := dropPartial(p.layout, dir); err != nil {
		return err
	}
	if h.Base == uuid.Nil || p.layout.Costly() {
		image, err := p.layout.Create(dir, partItem)
		if err != nil {
			return err
		}
		return errors.Join(image.Truncate(int64(h.Size)), image.Close())
	}
	if _, err := p.layout.Clone(dir, partItem, dir, base, false); err != nil {
		return err
	}
	image, err := dir.OpenFile(p.layout.Image(partItem), os.O_RDWR)
	if err != nil {
		return err
	}
	return errors.Join(image.Truncate(int64(h.Size)), image.Close())
}

// dropPartial removes the received part of a snapshot. It removes the record first.
func dropPartial(l layout, dir safefile.Dir) error {
	if err := safefile.AbsentIsFine(dir.Remove(partFile)); err != nil {
		return err
	}
	return l.Remove(dir, partItem)
}
