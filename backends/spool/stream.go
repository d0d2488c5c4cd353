// Package spool sends and receives snapshots for backends whose storage has its own stream format, which the kernel or
// a program writes (btrfs and zfs). [Send] adds framing with checksums to such a stream. A [Spool] collects a received
// stream in a file of the dataset's folder until it is complete. The part that was received before a crash or a lost
// connection is kept, so that the transfer can be resumed. The backend passes the file to the storage only after its
// checksum was verified.
//
// Backends btrfs and zfs send with Send, and get the Spool of a folder from package shelf. The only state is the two
// files in the folder (File and RecordFile). The caller must prevent concurrent calls for the same folder. The frames
// of the stream are in stream.go, and the file, its record and the flushes in spool.go.
package spool

import (
	"encoding/binary"
	"encoding/json"
	"io"

	"github.com/google/uuid"

	"github.com/droverhq/drover/backends"
	"github.com/droverhq/drover/backends/framing"
	"github.com/droverhq/drover/dataset"
)

// A stream is the magic and then frames (package framing). A frame is
//
//	kind      1 byte   'H' header, 'D' data, 'E' end
//	zero      3 bytes
//	sequence  4 bytes  counts the frames from 0
//	length    4 bytes  of the payload
//	checksum  4 bytes  CRC-32C over the above, so that a wrong length is not taken for an early end
//	checksum  4 bytes  CRC-32C over the payload
//	payload            H: JSON, D: bytes, E: SHA-256 of the stream up to its E
//
// All numbers are little-endian. H occurs once, as the first frame. E occurs once, as the last frame. All D frames
// except the last have 256 KiB.
const (
	magic       = "drover-spool/1\r\n"
	frameHeader = 20
	maxPayload  = 256 << 10
)

// Header describes a stream: the snapshot that it makes, and its base.
type Header struct {
	Kind     string       `json:"kind"` // the format of the frames: the backend's name
	Dataset  uuid.UUID    `json:"dataset"`
	Snapshot uuid.UUID    `json:"snapshot"`
	Base     uuid.UUID    `json:"base,omitzero"` // the snapshot that the stream is a difference to
	Size     dataset.Size `json:"size,omitempty"`
}

// Writer adds frames and checksums to the stream that a storage writes.
type Writer struct {
	out    *framing.Output
	from   int64
	buf    []byte
	header Header
}

// NewWriter returns a Writer that writes to w. from is the number of bytes to skip at the start of the framed stream:
// the Writer produces them, but does not write them. Close ends the stream.
func NewWriter(w io.Writer, h Header, from int64) (*Writer, error) {
	raw, err := json.Marshal(h)
	if err != nil {
		return nil, err
	}
	out, err := framing.NewOutput(w, magic, from, maxPayload+frameHeader)
	if err != nil {
		return nil, err
	}
	s := &Writer{out: out, from: from, header: h, buf: make([]byte, 0, maxPayload)}
	return s, s.frame(framing.Start, raw)
}

// Send adds frames to the stream that the function write writes. from is the number of bytes to skip at the start of
// the framed stream: Send produces them, but does not write them. It returns the description of the stream.
func Send(
	w io.Writer, h Header, from int64, progress backends.Progress, write func(io.Writer) error,
) (out backends.Stream, err error) {
	s, err := NewWriter(w, h, from)
	if err != nil {
		return out, err
	}
	if err := write(Counting(s, progress)); err != nil {
		return out, err
	}
	return s.Close()
}

// Write implements io.Writer. The frames do not depend on how the bytes are divided into calls.
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
	err := s.frame(framing.Data, s.buf)
	s.buf = s.buf[:0]
	return err
}

// Close ends the stream and returns its description. It fails with dataset.ErrInvalid if the stream has fewer bytes
// than NewWriter was told to skip.
func (s *Writer) Close() (backends.Stream, error) {
	out := backends.Stream{Base: s.header.Base, Size: s.header.Size}
	err := s.flush()
	if err == nil {
		err = s.out.Close(func(sum []byte) error { return s.frame(framing.End, sum) })
	}
	if err != nil {
		return out, err
	}
	out.Bytes, out.Sum = s.out.Total(), s.out.Checksum()
	if s.from > out.Bytes {
		return out, dataset.Errorf(dataset.ErrInvalid, "its stream has %d bytes, none from %d on", out.Bytes, s.from)
	}
	return out, nil
}

func (s *Writer) frame(kind byte, payload []byte) error {
	var h [frameHeader]byte
	s.out.Number(h[:], kind)
	le := binary.LittleEndian
	le.PutUint32(h[8:], uint32(len(payload)))
	le.PutUint32(h[12:], framing.CRC(h[:12]))
	le.PutUint32(h[16:], framing.CRC(payload))
	return s.out.Write(h[:], payload)
}

// reader reads a stream. It returns the errors of framing.Input.
type reader struct {
	in     *framing.Input
	header Header
	bytes  int64 // number of bytes of the storage's stream that were read
}

// mark is a position between two frames of a stream.
type mark struct {
	framing.Position
	Bytes int64 `json:"bytes"` // of the storage's stream before the position
}

func newReader(r io.Reader) *reader { return &reader{in: framing.NewInput(r)} }

// begin reads the header.
func (d *reader) begin() error {
	if err := d.in.Begin(magic, "a spool"); err != nil {
		return err
	}
	kind, payload, err := d.frame()
	if err != nil {
		return err
	}
	return framing.Describe(kind, payload, &d.header)
}

// resume continues at a mark.
func (d *reader) resume(h Header, at mark) error {
	d.header, d.bytes = h, at.Bytes
	return d.in.Resume(at.Position)
}

// mark returns the position in the stream. The last frame must have been read completely.
func (d *reader) mark() (mark, error) {
	at, err := d.in.Position()
	return mark{Position: at, Bytes: d.bytes}, err
}

// frame reads one frame. The payload is valid until the next one is read.
func (d *reader) frame() (kind byte, payload []byte, err error) {
	var h [frameHeader]byte
	if err := d.in.ReadHeader(h[:]); err != nil {
		return 0, nil, err
	}
	le := binary.LittleEndian
	if framing.CRC(h[:12]) != le.Uint32(h[12:]) {
		return 0, nil, framing.Corrupt("a checksum is wrong in the header of frame %d", d.in.Next())
	}
	number, err := d.in.CheckNumber(h[:])
	if err != nil {
		return 0, nil, err
	}
	if payload, err = d.in.ReadPayload(int64(le.Uint32(h[8:])), maxPayload); err != nil {
		return 0, nil, err
	}
	if framing.CRC(payload) != le.Uint32(h[16:]) {
		return 0, nil, framing.Corrupt("a checksum is wrong in frame %d", number)
	}
	if h[0] == framing.End {
		err = d.in.CheckSum(payload)
	}
	return h[0], payload, err
}

// data returns the next bytes of the storage's stream, or io.EOF after the end of a whole stream.
func (d *reader) data() ([]byte, error) {
	kind, payload, err := d.frame()
	switch {
	case err != nil:
		return nil, err
	case kind == framing.End:
		if err := d.in.CheckEnd(); err != nil {
			return nil, err
		}
		return nil, io.EOF
	case kind != framing.Data || len(payload) == 0:
		return nil, framing.Corrupt("a frame of unknown kind %q", kind)
	}
	d.bytes += int64(len(payload))
	return payload, nil
}
