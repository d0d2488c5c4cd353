// Package stream encodes and decodes the stream in which a snapshot of an image, or its difference from an earlier
// snapshot, travels between two pools of backend loop. The stream can be resumed at the end of each frame.
package stream

import (
	"bufio"
	"crypto/sha256"
	"encoding"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"hash"
	"hash/crc32"
	"io"

	"github.com/google/uuid"

	"github.com/droverhq/drover/backends/spool"
	"github.com/droverhq/drover/dataset"
	"github.com/droverhq/drover/internal/linux/crypt"
	"github.com/droverhq/drover/internal/linux/mkfs"
)

// A stream is the magic and then frames. A frame is
//
//	kind      1 byte   'H' header, 'D' data, 'Z' zeros, 'E' end
//	zero      3 bytes
//	sequence  4 bytes  counts the frames from 0
//	offset    8 bytes  in the image, for D and Z; it only increases
//	length    8 bytes  of the range for Z, otherwise of the payload
//	checksum  4 bytes  CRC-32C over the above and the payload
//	payload            H: JSON, D: bytes, E: SHA-256 of the stream up to its E
//
// All numbers are little-endian. The one H is the first frame, the one E the last.
const (
	magic       = "drover-image/1\r\n"
	frameHeader = 28
	MaxPayload  = 1 << 20 // most bytes of data in a frame
)

// blockSize divides the size of each image, in bytes.
const blockSize = 4096

const (
	frameStart = 'H'
	frameData  = 'D'
	frameZero  = 'Z'
	frameEnd   = 'E'
)

// Header describes a stream: the snapshot that it makes, and the base that it starts from.
type Header struct {
	Dataset    uuid.UUID `json:"dataset"`
	Snapshot   uuid.UUID `json:"snapshot"`
	Base       uuid.UUID `json:"base,omitzero"` // snapshot of the dataset that the stream is a difference from
	Size       int64     `json:"size"`          // of the image
	Filesystem string    `json:"filesystem"`
}

// castagnoli returns the table of CRC-32C.
func castagnoli() *crc32.Table { return crc32.MakeTable(crc32.Castagnoli) }

// Encoder writes a stream.
type Encoder struct {
	w    *bufio.Writer
	out  *spool.Rest
	sum  hash.Hash
	next uint32
}

// NewEncoder begins a stream. The first from bytes of the stream are not written to w.
func NewEncoder(w io.Writer, h Header, from int64) (*Encoder, error) {
	e := &Encoder{out: &spool.Rest{W: w, Skip: from}, sum: sha256.New()}
	e.w = bufio.NewWriterSize(io.MultiWriter(e.out, e.sum), MaxPayload+frameHeader)
	raw, err := json.Marshal(h)
	if err != nil {
		return nil, err
	}
	if _, err := e.w.WriteString(magic); err != nil {
		return nil, err
	}
	return e, e.frame(frameStart, 0, int64(len(raw)), raw)
}

func (e *Encoder) frame(kind byte, offset, length int64, payload []byte) error {
	var h [frameHeader]byte
	h[0] = kind
	le := binary.LittleEndian
	le.PutUint32(h[4:], e.next)
	le.PutUint64(h[8:], uint64(offset))
	le.PutUint64(h[16:], uint64(length))
	table := castagnoli()
	le.PutUint32(h[24:], crc32.Update(crc32.Checksum(h[:24], table), table, payload))
	e.next++
	if _, err := e.w.Write(h[:]); err != nil {
		return err
	}
	_, err := e.w.Write(payload)
	return err
}

// Data writes a range of data.
func (e *Encoder) Data(offset int64, b []byte) error {
	return e.frame(frameData, offset, int64(len(b)), b)
}

// Zeros writes a range of zeros.
func (e *Encoder) Zeros(offset, length int64) error { return e.frame(frameZero, offset, length, nil) }

// End ends the stream with its checksum and flushes it.
func (e *Encoder) End() error {
	if err := e.w.Flush(); err != nil {
		return err
	}
	if err := e.frame(frameEnd, 0, sha256.Size, e.sum.Sum(nil)); err != nil {
		return err
	}
	return e.w.Flush()
}

// Decoder reads a stream. It reports anything wrong with the stream as ErrCorrupt. It reports a stream that ends
// early as io.ErrUnexpectedEOF, because the rest may arrive later.
type Decoder struct {
	r      *bufio.Reader
	sum    hash.Hash
	Header Header
	Mark
	buf []byte
}

// Mark is a position between two frames of a stream.
type Mark struct {
	Offset int64  `json:"offset"` // in the stream
	Next   uint32 `json:"next"`   // sequence
	At     int64  `json:"at"`     // end of the last range
	Sum    []byte `json:"sum"`    // state of the checksum over everything before
}

// bareDecoder returns a decoder that has read nothing.
func bareDecoder(r io.Reader) *Decoder {
	return &Decoder{r: bufio.NewReaderSize(r, 64<<10), sum: sha256.New()}
}

// NewDecoder reads the beginning of a stream.
func NewDecoder(r io.Reader) (*Decoder, error) {
	d := bareDecoder(r)
	var m [len(magic)]byte
	if err := d.read(m[:]); err != nil {
		return nil, err
	}
	if string(m[:]) != magic {
		return nil, Corrupt("this is no stream of an image")
	}
	kind, _, _, payload, err := d.frame()
	if err != nil {
		return nil, err
	}
	if kind != frameStart {
		return nil, Corrupt("its first frame is no header")
	}
	if err := json.Unmarshal(payload, &d.Header); err != nil {
		return nil, Corrupt("its header can't be read: %w", err)
	}
	h := d.Header
	if h.Size <= 0 || h.Size%blockSize != 0 || dataset.Size(h.Size) > mkfs.MaxDevice+crypt.Overhead {
		return nil, Corrupt("no image has %d bytes", h.Size)
	}
	return d, nil
}

// ResumeDecoder resumes a stream at a mark.
func ResumeDecoder(r io.Reader, h Header, at Mark) (*Decoder, error) {
	d := bareDecoder(r)
	d.Header, d.Mark = h, at
	if err := d.sum.(encoding.BinaryUnmarshaler).UnmarshalBinary(at.Sum); err != nil {
		return nil, Corrupt("the record of what has come can't be used: %w", err)
	}
	return d, nil
}

// Here returns the position in the stream. The last frame must have been read completely.
func (d *Decoder) Here() (at Mark, err error) {
	at = d.Mark
	at.Sum, err = d.sum.(encoding.BinaryMarshaler).MarshalBinary()
	return at, err
}

// Total returns the length of the stream so far, in bytes. It includes the bytes that were skipped.
func (e *Encoder) Total() int64 { return e.out.Total }

// Checksum returns the SHA-256 of the stream so far, in hexadecimal digits.
func (e *Encoder) Checksum() string { return hex.EncodeToString(e.sum.Sum(nil)) }

// Checksum returns the SHA-256 of the part of the stream that was read, in hexadecimal digits.
func (d *Decoder) Checksum() string { return hex.EncodeToString(d.sum.Sum(nil)) }

// Corrupt returns the error of a bad stream.
func Corrupt(format string, args ...any) error {
	return dataset.Errorf(dataset.ErrCorrupt, "bad stream: "+format, args...)
}

// read fills b and adds it to the checksum of the stream.
func (d *Decoder) read(b []byte) error {
	_, err := io.ReadFull(d.r, b)
	if errors.Is(err, io.EOF) {
		err = io.ErrUnexpectedEOF
	}
	if err != nil {
		return fmt.Errorf("the stream ended early, %d bytes from its start: %w", d.Offset, err)
	}
	d.sum.Write(b)
	d.Offset += int64(len(b))
	return nil
}

// frame reads one frame. The payload is valid until the next frame is read.
func (d *Decoder) frame() (kind byte, offset, length int64, payload []byte, err error) {
	fail := func(err error) (byte, int64, int64, []byte, error) { return 0, 0, 0, nil, err }
	before := d.sum.Sum(nil)
	var h [frameHeader]byte
	if err := d.read(h[:]); err != nil {
		return fail(err)
	}
	le := binary.LittleEndian
	kind, offset, length = h[0], int64(le.Uint64(h[8:])), int64(le.Uint64(h[16:]))
	if seq := le.Uint32(h[4:]); seq != d.Next {
		return fail(Corrupt("frame %d came where %d should", seq, d.Next))
	}
	d.Next++
	if kind != frameZero {
		if length < 0 || length > MaxPayload {
			return fail(Corrupt("a frame of %d bytes", length))
		}
		if int64(cap(d.buf)) < length {
			d.buf = make([]byte, length)
		}
		payload = d.buf[:length]
		if err := d.read(payload); err != nil {
			return fail(err)
		}
	}
	table := castagnoli()
	if crc32.Update(crc32.Checksum(h[:24], table), table, payload) != le.Uint32(h[24:]) {
		return fail(Corrupt("a checksum is wrong in frame %d", d.Next-1))
	}
	if kind == frameEnd && string(payload) != string(before) {
		return fail(Corrupt("the checksum over all of it is wrong"))
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
	case frameEnd:
		if _, err := d.r.ReadByte(); err == nil {
			return Change{}, Corrupt("something comes after its end")
		}
		return Change{}, io.EOF
	case frameData, frameZero:
	default:
		return Change{}, Corrupt("a frame of an unknown kind %q", kind)
	}
	if offset < d.At || length <= 0 || length > d.Header.Size || offset > d.Header.Size-length {
		return Change{}, Corrupt("a range of %d bytes at %d, after %d, in an image of %d", length, offset, d.At,
			d.Header.Size)
	}
	d.At = offset + length
	return Change{Offset: offset, Length: length, Data: payload}, nil
}
