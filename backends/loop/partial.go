package loop

import (
	"errors"
	"io"
	"os"
	"path/filepath"

	"github.com/google/uuid"

	"github.com/droverhq/drover/backends"
	"github.com/droverhq/drover/backends/loop/folder"
	"github.com/droverhq/drover/backends/loop/layout"
	"github.com/droverhq/drover/backends/loop/stream"
	"github.com/droverhq/drover/dataset"
)

// partial is on record beside what has come of a snapshot.
type partial struct {
	Snapshot uuid.UUID     `json:"snapshot"`
	Header   stream.Header `json:"header"`
	// All that comes before is in the image, on the disk; of the base, which was all there
	// where a version of before wrote "mark", no more.
	Mark stream.Mark `json:"through"`
}

func readPartial(dir folder.Dir) (have partial, err error) {
	return have, layout.ReadRecord(dir, layout.PartFile, &have)
}

// came is the record of a snapshot that came from elsewhere.
type came struct {
	dataset.Snapshot
	Stream backends.Stream `json:"stream,omitzero"`
}

// copyDir opens the directory of a copy, which it makes when there is nothing.
func (p *Pool) copyDir(root folder.Dir, d dataset.Dataset) (folder.Dir, error) {
	dir, place, err := p.findAny(root, d.ID)
	if err == nil && place == layout.Copies {
		return dir, nil
	}
	if err == nil {
		_ = dir.Close()
		return folder.Dir{}, dataset.Errorf(dataset.ErrConflict, "pool %s has the dataset itself, with a head", p.name)
	}
	if !errors.Is(err, dataset.ErrNotFound) {
		return folder.Dir{}, err
	}
	if err := p.room(root); err != nil {
		return folder.Dir{}, err
	}
	name := filepath.Join(layout.Copies, d.ID.String())
	if err := root.Mkdir(name); err != nil && !errors.Is(err, os.ErrExist) {
		return folder.Dir{}, err
	}
	if dir, err = root.Sub(name); err != nil {
		return folder.Dir{}, err
	}
	p.step("receive.begun")
	err = p.records.Write(dir, layout.RecordFile, d)
	if err == nil {
		err = p.layout.Flush(dir)
	}
	if err != nil {
		return folder.Dir{}, errors.Join(err, dir.Close())
	}
	p.step("receive.recorded")
	return dir, nil
}

// resumed reads the beginning of a stream, or goes on where one was cut.
func (p *Pool) resumed(dir folder.Dir, d backends.Delivery, r io.Reader) (*stream.Decoder, error) {
	if d.From == 0 {
		in, err := stream.NewDecoder(r)
		if err != nil {
			return nil, err
		}
		if err := expected(in.Header, d); err != nil {
			return nil, err
		}
		return in, p.startPartial(dir, in.Header)
	}
	if err := p.dropHead(dir); err != nil {
		return nil, err
	}
	have, err := readPartial(dir)
	if err != nil {
		return nil, err
	}
	in, err := stream.ResumeDecoder(r, have.Header, have.Mark)
	if err != nil {
		return nil, errors.Join(err, p.dropPartial(dir))
	}
	return in, nil
}

func expected(h stream.Header, d backends.Delivery) error {
	switch {
	case h.Dataset != d.Dataset.ID || h.Snapshot != d.Snapshot.ID:
		return stream.Corrupt("it is that of snapshot %s of dataset %s", h.Snapshot, h.Dataset)
	case h.Base != d.Base:
		return dataset.Errorf(dataset.ErrConflict, "the stream is a difference to snapshot %s, not to %s", h.Base,
			d.Base)
	}
	return nil
}

// startPartial makes the image that a stream is written to: empty, or a clone of its base
// where that costs little. Otherwise the base's blocks get there while the stream comes.
func (p *Pool) startPartial(dir folder.Dir, h stream.Header) error {
	base := h.Base.String()
	if _, err := p.imageSize(dir, base); h.Base != uuid.Nil && errors.Is(err, os.ErrNotExist) {
		return dataset.Errorf(dataset.ErrNotFound,
			"the copy has no snapshot %s, which the stream is a difference to", h.Base)
	}
	if err := p.dropHead(dir); err != nil {
		return err
	}
	if err := p.dropPartial(dir); err != nil {
		return err
	}
	if h.Base == uuid.Nil || p.layout.Costly() {
		image, err := p.layout.Create(dir, layout.Part)
		if err != nil {
			return err
		}
		return errors.Join(image.Truncate(h.Size), image.Close())
	}
	if _, err := p.layout.Clone(dir, layout.Part, dir, base, false); err != nil {
		return err
	}
	image, err := dir.OpenFile(p.layout.Image(layout.Part), os.O_RDWR)
	if err != nil {
		return err
	}
	return errors.Join(image.Truncate(h.Size), image.Close())
}

// dropPartial removes what has come of a snapshot, the record of it first.
func (p *Pool) dropPartial(dir folder.Dir) error {
	if err := folder.AbsentIsFine(dir.Remove(layout.PartFile)); err != nil {
		return err
	}
	return p.layout.Remove(dir, layout.Part)
}
