// Package stream encodes and decodes the stream that transfers a snapshot of an image, or its difference to an earlier
// snapshot, between two pools of backend loop. Package transfer uses it. The stream can be resumed at the end of each
// frame. An [Encoder] or [Decoder] has no state besides its position in the stream, and belongs to one goroutine.
package stream

import (
	"encoding/binary"
	"encoding/json"
	"io"

	"github.com/google/uuid"

	"github.com/droverhq/drover/backends/framing"
	"github.com/droverhq/drover/dataset"
	"github.com/droverhq/drover/internal/linux/crypt"
	"github.com/droverhq/drover/internal/linux/mkfs"
)

// A stream is the magic and then frames (package framing). A frame is
//
//	kind      1 byte   'H' header, 'D' data, 'Z' zeros, 'E' end
//	zero      3 bytes
//	sequence  4 bytes  counts the frames from 0
//	offset    8 bytes  in the image, for D and Z; it only increases
//	length    8 bytes  of the range for Z, otherwise of the payload
//	checksum  4 bytes  CRC-32C over the above and the payload
//	payload            H: JSON, D: bytes, E: SHA-256 of the stream up to its E
//
// All numbers are little-endian. H occurs once, as the first frame. E occurs once, as the last frame.
const (
	magic       = "drover-image/1\r\n"
	frameHeader = 28
	MaxPayload  = 1 << 20 // most bytes of data in a frame
)

// blockSize divides the size of each image, in bytes.
const blockSize = 4096

// frameZero is the kind of a frame without a payload: a range of zeros.
const frameZero = 'Z'

// Header describes a stream: the snapshot that it makes, and the base that it starts from.
type Header struct {
	Dataset    uuid.UUID `json:"dataset"`
	Snapshot   uuid.UUID `json:"snapshot"`
	Base       uuid.UUID `json:"base,omitzero"` // if set, the stream is the difference to this snapshot
	Size       int64     `json:"size"`          // of the image
	Filesystem string    `json:"filesystem"`
}

// Encoder writes a stream.
type Encoder struct {
	out *framing.Output
}

// NewEncoder begins a stream. from is the number of bytes to skip at the start of the stream: they are not written to
// w.
func NewEncoder(w io.Writer, h Header, from int64) (*Encoder, error) {
	raw, err := json.Marshal(h)
	if err != nil {
		return nil, err
	}
	out, err := framing.NewOutput(w, magic, from, MaxPayload+frameHeader)
	if err != nil {
		return nil, err
	}
	e := &Encoder{out: out}
	return e, e.frame(framing.Start, 0, int64(len(raw)), raw)
}

func (e *Encoder) frame(kind byte, offset, length int64, payload []byte) error {
	var h [frameHeader]byte
	e.out.Number(h[:], kind)
	le := binary.LittleEndian
	le.PutUint64(h[8:], uint64(offset))
	le.PutUint64(h[16:], uint64(length))
	le.PutUint32(h[24:], framing.CRC(h[:24], payload))
	return e.out.Write(h[:], payload)
}

// Data writes a range of data.
func (e *Encoder) Data(offset int64, b []byte) error {
	return e.frame(framing.Data, offset, int64(len(b)), b)
}

// Zeros writes a range of zeros.
func (e *Encoder) Zeros(offset, length int64) error { return e.frame(frameZero, offset, length, nil) }

// End ends the stream with its checksum and flushes it.
func (e *Encoder) End() error {
	return e.out.Close(func(sum []byte) error { return e.frame(framing.End, 0, int64(len(sum)), sum) })
}

// Total returns the length of the stream so far, in bytes. It includes the bytes that were skipped.
func (e *Encoder) Total() int64 { return e.out.Total() }

// Checksum returns the SHA-256 of the stream so far, in hexadecimal digits.
func (e *Encoder) Checksum() string { return e.out.Checksum() }

// Decoder reads a stream. It returns the errors of framing.Input.
type Decoder struct {
	in     *framing.Input
	at     int64 // end of the last range
	Header Header
}

// Mark is a position between two frames of a stream.
type Mark struct {
	framing.Position
	At int64 `json:"at"` // end of the last range
}

// NewDecoder reads the beginning of a stream.
func NewDecoder(r io.Reader) (*Decoder, error) {
	d := &Decoder{in: framing.NewInput(r)}
	if err := d.in.Begin(magic, "an image"); err != nil {
		return nil, err
	}
	kind, _, _, payload, err := d.frame()
	if err == nil {
		err = framing.Describe(kind, payload, &d.Header)
	}
	if err != nil {
		return nil, err
	}
	h := d.Header
	if h.Size <= 0 || h.Size%blockSize != 0 || dataset.Size(h.Size) > mkfs.MaxDevice+crypt.Overhead {
		return nil, framing.Corrupt("an image cannot have %d bytes", h.Size)
	}
	return d, nil
}

// ResumeDecoder resumes a stream at a mark.
func ResumeDecoder(r io.Reader, h Header, at Mark) (*Decoder, error) {
	d := &Decoder{in: framing.NewInput(r), at: at.At, Header: h}
	return d, d.in.Resume(at.Position)
}

// Mark returns the position in the stream. The last frame must have been read completely.
func (d *Decoder) Mark() (Mark, error) {
	at, err := d.in.Position()
	return Mark{Position: at, At: d.at}, err
}

// Offset returns how many bytes of the stream were read, including those before a mark where it was resumed.
func (d *Decoder) Offset() int64 { return d.in.Offset() }

// Checksum returns the SHA-256 of the part of the stream that was read, in hexadecimal digits.
func (d *Decoder) Checksum() string { return d.in.Checksum() }

// frame reads one frame. The payload is valid until the next frame is read.
func (d *Decoder) frame() (kind byte, offset, length int64, payload []byte, err error) {
	fail := func(err error) (byte, int64, int64, []byte, error) { return 0, 0, 0, nil, err }
	var h [frameHeader]byte
	if err := d.in.ReadHeader(h[:]); err != nil {
		return fail(err)
	}
	number, err := d.in.CheckNumber(h[:])
	if err != nil {
		return fail(err)
	}
	le := binary.LittleEndian
	kind, offset, length = h[0], int64(le.Uint64(h[8:])), int64(le.Uint64(h[16:]))
	if kind != frameZero {
		if payload, err = d.in.ReadPayload(length, MaxPayload); err != nil {
			return fail(err)
		}
	}
	if framing.CRC(h[:24], payload) != le.Uint32(h[24:]) {
		return fail(framing.Corrupt("a checksum is wrong in frame %d", number))
	}
	if kind == framing.End {
		if err := d.in.CheckSum(payload); err != nil {
			return fail(err)
		}
	}
	return kind, offset, length, payload, nil
}

// Change is one range of a stream: data, or zeros if the data is nil.
type Change struct {
	Offset, Length int64
	Data           []byte
}

// NextChange returns the next range. It returns io.EOF after the end of a whole stream.
func (d *Decoder) NextChange() (Change, error) {
	kind, offset, length, payload, err := d.frame()
	if err != nil {
		return Change{}, err
	}
	switch kind {
	case framing.End:
		if err := d.in.CheckEnd(); err != nil {
			return Change{}, err
		}
		return Change{}, io.EOF
	case framing.Data, frameZero:
	default:
		return Change{}, framing.Corrupt("a frame of unknown kind %q", kind)
	}
	if offset < d.at || length <= 0 || length > d.Header.Size || offset > d.Header.Size-length {
		return Change{}, framing.Corrupt("a range of %d bytes at %d, after %d, in an image of %d "+
			"bytes", length, offset, d.at,
			d.Header.Size)
	}
	d.at = offset + length
	return Change{Offset: offset, Length: length, Data: payload}, nil
}
