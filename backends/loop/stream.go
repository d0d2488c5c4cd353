package loop

import (
	"bufio"
	"crypto/sha256"
	"encoding"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"hash"
	"hash/crc32"
	"io"

	"github.com/google/uuid"

	"github.com/droverhq/drover/backends/spool"
	"github.com/droverhq/drover/dataset"
)

// A stream is magic, then frames. A frame is
//
//	kind      1 byte   'H' header, 'D' data, 'Z' zeros, 'E' end
//	zero      3 bytes
//	sequence  4 bytes  from 0, one up for each frame
//	offset    8 bytes  in the image, for D and Z; they only go up
//	length    8 bytes  of the range for Z, otherwise of the payload
//	checksum  4 bytes  CRC-32C over the above and the payload
//	payload            H: JSON, D: bytes, E: SHA-256 of the stream up to its E
//
// all little-endian. H comes first and once, E last and once.
const (
	magic       = "drover-image/1\r\n"
	frameHeader = 28
	maxPayload  = 1 << 20
)

const (
	frameStart = 'H'
	frameData  = 'D'
	frameZero  = 'Z'
	frameEnd   = 'E'
)

// streamHeader says what a stream turns into what.
type streamHeader struct {
	Dataset    uuid.UUID `json:"dataset"`
	Snapshot   uuid.UUID `json:"snapshot"`
	Base       uuid.UUID `json:"base,omitzero"` // snapshot of the dataset that it is a difference to
	Size       int64     `json:"size"`          // of the image
	Filesystem string    `json:"filesystem"`
}

func castagnoli() *crc32.Table { return crc32.MakeTable(crc32.Castagnoli) }

// encoder writes a stream.
type encoder struct {
	w    *bufio.Writer
	out  *spool.Rest
	sum  hash.Hash
	next uint32
}

// newEncoder writes a stream to w, but for its first from bytes.
func newEncoder(w io.Writer, h streamHeader, from int64) (*encoder, error) {
	e := &encoder{out: &spool.Rest{W: w, Skip: from}, sum: sha256.New()}
	e.w = bufio.NewWriterSize(io.MultiWriter(e.out, e.sum), maxPayload+frameHeader)
	raw, err := json.Marshal(h)
	if err != nil {
		return nil, err
	}
	if _, err := e.w.WriteString(magic); err != nil {
		return nil, err
	}
	return e, e.frame(frameStart, 0, int64(len(raw)), raw)
}

func (e *encoder) frame(kind byte, offset, length int64, payload []byte) error {
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

func (e *encoder) data(offset int64, b []byte) error {
	return e.frame(frameData, offset, int64(len(b)), b)
}

func (e *encoder) zeros(offset, length int64) error { return e.frame(frameZero, offset, length, nil) }

func (e *encoder) end() error {
	if err := e.w.Flush(); err != nil {
		return err
	}
	if err := e.frame(frameEnd, 0, sha256.Size, e.sum.Sum(nil)); err != nil {
		return err
	}
	return e.w.Flush()
}

// decoder reads a stream. Whatever is wrong with it is ErrCorrupt; one that ends early
// io.ErrUnexpectedEOF, as its rest may come later.
type decoder struct {
	r      *bufio.Reader
	sum    hash.Hash
	header streamHeader
	mark
	buf []byte
}

// mark is a place between two frames of a stream.
type mark struct {
	Offset int64  `json:"offset"` // in the stream
	Next   uint32 `json:"next"`   // sequence
	At     int64  `json:"at"`     // end of the last range
	Sum    []byte `json:"sum"`    // state of the checksum over what comes before
}

func bareDecoder(r io.Reader) *decoder {
	return &decoder{r: bufio.NewReaderSize(r, 64<<10), sum: sha256.New()}
}

// newDecoder begins a stream.
func newDecoder(r io.Reader) (*decoder, error) {
	d := bareDecoder(r)
	var m [len(magic)]byte
	if err := d.read(m[:]); err != nil {
		return nil, err
	}
	if string(m[:]) != magic {
		return nil, corrupt("this is no stream of an image")
	}
	kind, _, _, payload, err := d.frame()
	if err != nil {
		return nil, err
	}
	if kind != frameStart {
		return nil, corrupt("its first frame is no header")
	}
	if err := json.Unmarshal(payload, &d.header); err != nil {
		return nil, corrupt("its header can't be read: %w", err)
	}
	h := d.header
	if h.Size <= 0 || h.Size%sector != 0 || dataset.Size(h.Size) > maxImage {
		return nil, corrupt("no image has %d bytes", h.Size)
	}
	return d, nil
}

// resumeDecoder goes on at a mark.
func resumeDecoder(r io.Reader, h streamHeader, at mark) (*decoder, error) {
	d := bareDecoder(r)
	d.header, d.mark = h, at
	if err := d.sum.(encoding.BinaryUnmarshaler).UnmarshalBinary(at.Sum); err != nil {
		return nil, corrupt("the record of what has come can't be used: %w", err)
	}
	return d, nil
}

// here returns where the stream is, after a whole frame.
func (d *decoder) here() (at mark, err error) {
	at = d.mark
	at.Sum, err = d.sum.(encoding.BinaryMarshaler).MarshalBinary()
	return at, err
}

func corrupt(format string, args ...any) error {
	return dataset.Errorf(dataset.ErrCorrupt, "bad stream: "+format, args...)
}

// read fills b and adds it to the checksum of the stream.
func (d *decoder) read(b []byte) error {
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

// frame reads one frame. The payload is good until the next one is read.
func (d *decoder) frame() (kind byte, offset, length int64, payload []byte, err error) {
	fail := func(err error) (byte, int64, int64, []byte, error) { return 0, 0, 0, nil, err }
	before := d.sum.Sum(nil)
	var h [frameHeader]byte
	if err := d.read(h[:]); err != nil {
		return fail(err)
	}
	le := binary.LittleEndian
	kind, offset, length = h[0], int64(le.Uint64(h[8:])), int64(le.Uint64(h[16:]))
	if seq := le.Uint32(h[4:]); seq != d.Next {
		return fail(corrupt("frame %d came where %d should", seq, d.Next))
	}
	d.Next++
	if kind != frameZero {
		if length < 0 || length > maxPayload {
			return fail(corrupt("a frame of %d bytes", length))
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
		return fail(corrupt("a checksum is wrong in frame %d", d.Next-1))
	}
	if kind == frameEnd && string(payload) != string(before) {
		return fail(corrupt("the checksum over all of it is wrong"))
	}
	return kind, offset, length, payload, nil
}

// change is one range of a stream: data, or zeros when that is nil.
type change struct {
	offset, length int64
	data           []byte
}

// nextChange returns the next range, or io.EOF after the end of a whole stream.
func (d *decoder) nextChange() (change, error) {
	kind, offset, length, payload, err := d.frame()
	if err != nil {
		return change{}, err
	}
	switch kind {
	case frameEnd:
		if _, err := d.r.ReadByte(); err == nil {
			return change{}, corrupt("something comes after its end")
		}
		return change{}, io.EOF
	case frameData, frameZero:
	default:
		return change{}, corrupt("a frame of an unknown kind %q", kind)
	}
	if offset < d.At || length <= 0 || length > d.header.Size || offset > d.header.Size-length {
		return change{}, corrupt("a range of %d bytes at %d, after %d, in an image of %d", length, offset, d.At,
			d.header.Size)
	}
	d.At = offset + length
	return change{offset: offset, length: length, data: payload}, nil
}
