package loop

import (
	"bufio"
	"crypto/sha256"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"hash"
	"hash/crc32"
	"io"

	"github.com/google/uuid"

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
	sum  hash.Hash
	next uint32
}

func newEncoder(w io.Writer, h streamHeader) (*encoder, error) {
	e := &encoder{sum: sha256.New()}
	e.w = bufio.NewWriterSize(io.MultiWriter(w, e.sum), maxPayload+frameHeader)
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

// decoder reads a stream; whatever is wrong with it is ErrCorrupt.
type decoder struct {
	r      *bufio.Reader
	sum    hash.Hash
	header streamHeader
	next   uint32
	at     int64 // end of the last range
	buf    []byte
}

func newDecoder(r io.Reader) (*decoder, error) {
	d := &decoder{r: bufio.NewReaderSize(r, 64<<10), sum: sha256.New()}
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
	if h.Size <= 0 || h.Size%sector != 0 || dataset.Size(h.Size) > maxSize {
		return nil, corrupt("no image has %d bytes", h.Size)
	}
	return d, nil
}

func corrupt(format string, args ...any) error {
	return dataset.Errorf(dataset.ErrCorrupt, "bad stream: "+format, args...)
}

// read fills b and adds it to the checksum of the stream.
func (d *decoder) read(b []byte) error {
	_, err := io.ReadFull(d.r, b)
	if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
		return corrupt("it was cut short")
	}
	if err != nil {
		return fmt.Errorf("read the stream: %w", err)
	}
	d.sum.Write(b)
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
	if seq := le.Uint32(h[4:]); seq != d.next {
		return fail(corrupt("frame %d came where %d should", seq, d.next))
	}
	d.next++
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
		return fail(corrupt("a checksum is wrong in frame %d", d.next-1))
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
		if _, err := d.r.ReadByte(); !errors.Is(err, io.EOF) {
			return change{}, corrupt("something comes after its end")
		}
		return change{}, io.EOF
	case frameData, frameZero:
	default:
		return change{}, corrupt("a frame of an unknown kind %q", kind)
	}
	if offset < d.at || length <= 0 || length > d.header.Size || offset > d.header.Size-length {
		return change{}, corrupt("a range of %d bytes at %d, after %d, in an image of %d", length, offset, d.at, d.header.Size)
	}
	d.at = offset + length
	return change{offset: offset, length: length, data: payload}, nil
}
