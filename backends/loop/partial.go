package loop

import (
	"errors"
	"io"
	"os"
	"path/filepath"

	"github.com/google/uuid"

	"github.com/droverhq/drover/backends"
	"github.com/droverhq/drover/dataset"
)

const partFile = part + recordSuffix

// partial is on record beside what has come of a snapshot.
type partial struct {
	Snapshot uuid.UUID    `json:"snapshot"`
	Header   streamHeader `json:"header"`
	// All that comes before is in the image, on the disk; of the base, which was all there
	// where a version of before wrote "mark", no more.
	Mark mark `json:"through"`
}

func readPartial(dir folder) (have partial, err error) {
	return have, readRecord(dir, partFile, &have)
}

// came is the record of a snapshot that came from elsewhere.
type came struct {
	dataset.Snapshot
	Stream backends.Stream `json:"stream,omitzero"`
}

// copyDir opens the directory of a copy, which it makes when there is nothing.
func (p *Pool) copyDir(root folder, d dataset.Dataset) (folder, error) {
	dir, place, err := p.findAny(root, d.ID)
	if err == nil && place == copies {
		return dir, nil
	}
	if err == nil {
		_ = dir.Close()
		return folder{}, dataset.Errorf(dataset.ErrConflict, "pool %s has the dataset itself, with a head", p.name)
	}
	if !errors.Is(err, dataset.ErrNotFound) {
		return folder{}, err
	}
	if err := p.room(root); err != nil {
		return folder{}, err
	}
	name := filepath.Join(copies, d.ID.String())
	if err := root.mkdir(name); err != nil && !errors.Is(err, os.ErrExist) {
		return folder{}, err
	}
	if dir, err = root.sub(name); err != nil {
		return folder{}, err
	}
	p.step("receive.begun")
	err = p.writeRecord(dir, recordFile, d)
	if err == nil {
		err = p.layout.flush(dir)
	}
	if err != nil {
		return folder{}, errors.Join(err, dir.Close())
	}
	p.step("receive.recorded")
	return dir, nil
}

// resumed reads the beginning of a stream, or goes on where one was cut.
func (p *Pool) resumed(dir folder, d backends.Delivery, r io.Reader) (*decoder, error) {
	if d.From == 0 {
		in, err := newDecoder(r)
		if err != nil {
			return nil, err
		}
		if err := expected(in.header, d); err != nil {
			return nil, err
		}
		return in, p.startPartial(dir, in.header)
	}
	if err := p.dropHead(dir); err != nil {
		return nil, err
	}
	have, err := readPartial(dir)
	if err != nil {
		return nil, err
	}
	in, err := resumeDecoder(r, have.Header, have.Mark)
	if err != nil {
		return nil, errors.Join(err, p.dropPartial(dir))
	}
	return in, nil
}

func expected(h streamHeader, d backends.Delivery) error {
	switch {
	case h.Dataset != d.Dataset.ID || h.Snapshot != d.Snapshot.ID:
		return corrupt("it is that of snapshot %s of dataset %s", h.Snapshot, h.Dataset)
	case h.Base != d.Base:
		return dataset.Errorf(dataset.ErrConflict, "the stream is a difference to snapshot %s, not to %s", h.Base,
			d.Base)
	}
	return nil
}

// startPartial makes the image that a stream is written to: empty, or a clone of its base
// where that costs little. Otherwise the base's blocks get there while the stream comes.
func (p *Pool) startPartial(dir folder, h streamHeader) error {
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
	if h.Base == uuid.Nil || p.layout.costly() {
		image, err := p.layout.create(dir, part)
		if err != nil {
			return err
		}
		return errors.Join(image.Truncate(h.Size), image.Close())
	}
	if _, err := p.layout.clone(dir, part, dir, base, false); err != nil {
		return err
	}
	image, err := dir.openFile(p.layout.image(part), os.O_RDWR)
	if err != nil {
		return err
	}
	return errors.Join(image.Truncate(h.Size), image.Close())
}

// dropPartial removes what has come of a snapshot, the record of it first.
func (p *Pool) dropPartial(dir folder) error {
	if err := absentIsFine(dir.remove(partFile)); err != nil {
		return err
	}
	return p.layout.remove(dir, part)
}
