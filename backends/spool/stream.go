// Package spool is how a backend whose storage has a stream of its own, made by the kernel or a
// program, sends snapshots: the framing around that stream, and the file in which it is gathered
// until it is whole. What came before a crash or a cut stays, and nothing is given to the
// storage before its checksum was found right.
package spool

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

	"github.com/droverhq/drover/backends"
	"github.com/droverhq/drover/dataset"
)

// A stream is magic, then frames. A frame is
//
//	kind      1 byte   'H' header, 'D' data, 'E' end
//	zero      3 bytes
//	sequence  4 bytes  from 0, one up for each frame
//	length    4 bytes  of the payload
//	checksum  4 bytes  CRC-32C over the above: a wrong length is no early end
//	checksum  4 bytes  CRC-32C over the payload
//	payload            H: JSON, D: bytes, E: SHA-256 of the stream up to its E
//
// all little-endian. H comes first and once, E last and once; each D but the last is full.
const (
	magic       = "drover-spool/1\r\n"
	frameHeader = 20
	maxPayload  = 256 << 10
)

const (
	frameStart = 'H'
	frameData  = 'D'
	frameEnd   = 'E'
)

// Header names the base and the result of a stream.
type Header struct {
	Kind     string       `json:"kind"` // the format of the frames: the backend's name
	Dataset  uuid.UUID    `json:"dataset"`
	Snapshot uuid.UUID    `json:"snapshot"`
	Base     uuid.UUID    `json:"base,omitzero"` // snapshot of the dataset that it is a difference to
	Size     dataset.Size `json:"size,omitempty"`
}

func castagnoli() *crc32.Table { return crc32.MakeTable(crc32.Castagnoli) }

// Writer frames a storage's own stream.
type Writer struct {
	w      *bufio.Writer
	out    *Rest
	sum    hash.Hash
	next   uint32
	buf    []byte
	header Header
}

// NewWriter writes a stream to w, without its first from bytes. Close ends it.
func NewWriter(w io.Writer, h Header, from int64) (*Writer, error) {
	s := &Writer{out: &Rest{W: w, Skip: from}, sum: sha256.New(), header: h, buf: make([]byte, 0, maxPayload)}
	s.w = bufio.NewWriterSize(io.MultiWriter(s.out, s.sum), maxPayload+frameHeader)
	raw, err := json.Marshal(h)
	if err != nil {
		return nil, err
	}
	if _, err := s.w.WriteString(magic); err != nil {
		return nil, err
	}
	return s, s.frame(frameStart, raw)
}

// Write implements io.Writer. However it is called, the frames are the same.
func (s *Writer) Write(b []byte) (int, error) {
	n := 0
	for len(b) > 0 {
		part := min(len(b), maxPayload-len(s.buf))
		s.buf = append(s.buf, b[:part]...)
		n, b = n+part, b[part:]
		if len(s.buf) == maxPayload {
			if err := s.flush(); err != nil {
				return n, err
			}
		}
	}
	return n, nil
}

func (s *Writer) flush() error {
	if len(s.buf) == 0 {
		return nil
	}
	err := s.frame(frameData, s.buf)
	s.buf = s.buf[:0]
	return err
}

// Close ends the stream and returns its description. dataset.ErrInvalid: it has fewer bytes than were to be left out.
func (s *Writer) Close() (backends.Stream, error) {
	out := backends.Stream{Base: s.header.Base, Size: s.header.Size}
	err := s.flush()
	if err == nil {
		err = s.w.Flush()
	}
	if err == nil {
		err = s.frame(frameEnd, s.sum.Sum(nil))
	}
	if err == nil {
		err = s.w.Flush()
	}
	if err != nil {
		return out, err
	}
	out.Bytes, out.Sum = s.out.Total, hex.EncodeToString(s.sum.Sum(nil))
	if s.out.Skip > out.Bytes {
		return out, dataset.Errorf(dataset.ErrInvalid, "its stream has %d bytes, none from %d on", out.Bytes,
			s.out.Skip)
	}
	return out, nil
}

func (s *Writer) frame(kind byte, payload []byte) error {
	var h [frameHeader]byte
	h[0] = kind
	le := binary.LittleEndian
	le.PutUint32(h[4:], s.next)
	le.PutUint32(h[8:], uint32(len(payload)))
	le.PutUint32(h[12:], crc32.Checksum(h[:12], castagnoli()))
	le.PutUint32(h[16:], crc32.Checksum(payload, castagnoli()))
	s.next++
	if _, err := s.w.Write(h[:]); err != nil {
		return err
	}
	_, err := s.w.Write(payload)
	return err
}

// reader reads a stream. Whatever is wrong with it is ErrCorrupt; one that ends early
// io.ErrUnexpectedEOF, as its rest may come later.
type reader struct {
	r      *bufio.Reader
	sum    hash.Hash
	header Header
	mark
	buf []byte
}

// mark is a place between two frames of a stream.
type mark struct {
	Offset int64  `json:"offset"` // in the stream
	Next   uint32 `json:"next"`   // sequence
	Bytes  int64  `json:"bytes"`  // of the storage's own stream, that came by then
	Sum    []byte `json:"sum"`    // state of the checksum over the bytes before
}

func newReader(r io.Reader) *reader {
	return &reader{r: bufio.NewReaderSize(r, 64<<10), sum: sha256.New(), buf: make([]byte, maxPayload)}
}

// begin reads the header.
func (d *reader) begin() error {
	var m [len(magic)]byte
	if err := d.read(m[:]); err != nil {
		return err
	}
	if string(m[:]) != magic {
		return corrupt("this is no stream of a spool")
	}
	kind, payload, err := d.frame()
	if err != nil {
		return err
	}
	if kind != frameStart {
		return corrupt("its first frame is no header")
	}
	if err := json.Unmarshal(payload, &d.header); err != nil {
		return corrupt("its header can't be read: %w", err)
	}
	return nil
}

// resume continues at a mark.
func (d *reader) resume(h Header, at mark) error {
	d.header, d.mark = h, at
	if err := d.sum.(encoding.BinaryUnmarshaler).UnmarshalBinary(at.Sum); err != nil {
		return corrupt("the record of what has come can't be used: %w", err)
	}
	return nil
}

// here returns where the stream is, after a whole frame.
func (d *reader) here() (at mark, err error) {
	at = d.mark
	at.Sum, err = d.sum.(encoding.BinaryMarshaler).MarshalBinary()
	return at, err
}

func corrupt(format string, args ...any) error {
	return dataset.Errorf(dataset.ErrCorrupt, "bad stream: "+format, args...)
}

// read fills b and adds it to the checksum of the stream.
func (d *reader) read(b []byte) error {
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
func (d *reader) frame() (kind byte, payload []byte, err error) {
	before := d.sum.Sum(nil)
	var h [frameHeader]byte
	if err := d.read(h[:]); err != nil {
		return 0, nil, err
	}
	le := binary.LittleEndian
	if crc32.Checksum(h[:12], castagnoli()) != le.Uint32(h[12:]) {
		return 0, nil, corrupt("a checksum is wrong in the head of frame %d", d.Next)
	}
	if seq := le.Uint32(h[4:]); seq != d.Next {
		return 0, nil, corrupt("frame %d came where %d should", seq, d.Next)
	}
	d.Next++
	length := le.Uint32(h[8:])
	if length > maxPayload {
		return 0, nil, corrupt("a frame of %d bytes", length)
	}
	payload = d.buf[:length]
	if err := d.read(payload); err != nil {
		return 0, nil, err
	}
	if crc32.Checksum(payload, castagnoli()) != le.Uint32(h[16:]) {
		return 0, nil, corrupt("a checksum is wrong in frame %d", d.Next-1)
	}
	if h[0] == frameEnd && string(payload) != string(before) {
		return 0, nil, corrupt("the checksum over all of it is wrong")
	}
	return h[0], payload, nil
}

// data returns the next bytes of the storage's own stream, or io.EOF after the end of a whole
// one.
func (d *reader) data() ([]byte, error) {
	kind, payload, err := d.frame()
	switch {
	case err != nil:
		return nil, err
	case kind == frameEnd:
		if _, err := d.r.ReadByte(); err == nil {
			return nil, corrupt("something comes after its end")
		}
		return nil, io.EOF
	case kind != frameData || len(payload) == 0:
		return nil, corrupt("a frame of an unknown kind %q", kind)
	}
	d.Bytes += int64(len(payload))
	return payload, nil
}
