// Package stream is the format of the streams in which pools send snapshots. A [Writer] writes a stream and a [Reader]
// reads one. They have no state besides their position in the stream, and each belongs to one goroutine.
//
// A stream is the magic and then frames. Between agents, the header Drover-Frames has the version of the format
// (package agent/move). A frame is
//
//	kind    1 byte   'H' header, 'D' data, 'Z' zeros, 'E' end
//	offset  8 bytes  of the range, for D and Z; it only increases
//	length  8 bytes  of the range for Z, otherwise of the payload
//	payload          H: JSON, D: bytes, E: SHA-256 of the stream up to its E
//
// All numbers are little-endian. H occurs once, as the first frame. E occurs once, as the last frame. In backend loop
// the ranges are those of an image. The other backends send the stream of a kernel or of a program, as adjoining ranges
// of data ([Send]).
//
// Only the SHA-256 at the end protects the content. A frame can be wrong until then, so a pool keeps what it receives
// apart from its snapshots until Next returns io.EOF. A stream can be resumed after each frame. The [Mark] contains the
// state of the SHA-256, so the checksum at the end also covers what came before the interruption.
//
// # Spool
//
// The streams of kernels and programs cannot be applied in part. [Send] divides such a stream into frames, and a
// [Spool] collects a received one in a file of the dataset's folder until it is complete. The part that was received
// before a crash or a lost connection is kept, so that the transfer can be resumed. The backend passes the file to the
// storage only after the checksum of the whole stream was verified. Backends btrfs and zfs get the Spool of a folder
// from package shelf. The only state is the two files in the folder (File and RecordFile). The caller must prevent
// concurrent calls for the same folder.
package stream

import (
	"bufio"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"hash"
	"io"

	"github.com/google/uuid"

	"github.com/droverhq/drover/backends"
	"github.com/droverhq/drover/dataset"
)

const (
	magic       = "drover-stream\r\n"
	frameHeader = 17
)

// MaxPayload is the most bytes of data in a frame.
const MaxPayload = 1 << 20

// Kinds of frames.
const (
	kindHeader = 'H'
	kindData   = 'D'
	kindZeros  = 'Z'
	kindEnd    = 'E'
)

// Header describes a stream: the snapshot that it makes, and its base.
type Header struct {
	Kind       string       `json:"kind"` // what the ranges are of: the name of the backend
	Dataset    uuid.UUID    `json:"dataset"`
	Snapshot   uuid.UUID    `json:"snapshot"`
	Base       uuid.UUID    `json:"base,omitzero"`        // if set, the stream is the difference to this snapshot
	Size       dataset.Size `json:"size,omitempty"`       // of the dataset; in backend loop of its image
	Filesystem string       `json:"filesystem,omitempty"` // of an image
}

// Check fails with dataset.ErrCorrupt unless the stream is of the given kind and that of a delivery.
func (h Header) Check(kind string, d backends.Delivery) error {
	switch {
	case h.Kind != kind:
		return Corrupt("it is a stream of %q, not of %s", h.Kind, kind)
	case h.Dataset != d.Dataset.ID || h.Snapshot != d.Snapshot.ID:
		return Corrupt("it belongs to snapshot %s of dataset %s", h.Snapshot, h.Dataset)
	case h.Size < 0:
		return Corrupt("a dataset cannot have %d bytes", h.Size)
	case h.Base != d.Base:
		return Corrupt("it is a difference to snapshot %s, not to %s", h.Base, d.Base)
	}
	return nil
}

// Writer writes a stream.
type Writer struct {
	w       *bufio.Writer
	skipper *skipWriter
	sum     hash.Hash
	header  Header
}

// NewWriter begins a stream. from is the number of bytes to skip at the start of the stream: the Writer produces them,
// but does not write them to w.
func NewWriter(w io.Writer, h Header, from int64) (*Writer, error) {
	raw, err := json.Marshal(h)
	if err != nil {
		return nil, err
	}
	s := &Writer{skipper: &skipWriter{w: w, skip: from}, sum: sha256.New(), header: h}
	s.w = bufio.NewWriterSize(io.MultiWriter(s.skipper, s.sum), MaxPayload+frameHeader)
	if _, err := s.w.WriteString(magic); err != nil {
		return nil, err
	}
	return s, s.frame(kindHeader, 0, int64(len(raw)), raw)
}

func (s *Writer) frame(kind byte, offset, length int64, payload []byte) error {
	var h [frameHeader]byte
	h[0] = kind
	binary.LittleEndian.PutUint64(h[1:], uint64(offset))
	binary.LittleEndian.PutUint64(h[9:], uint64(length))
	if _, err := s.w.Write(h[:]); err != nil {
		return err
	}
	_, err := s.w.Write(payload)
	return err
}

// Data writes a range of data, of at most MaxPayload bytes.
func (s *Writer) Data(offset int64, b []byte) error {
	return s.frame(kindData, offset, int64(len(b)), b)
}

// Zeros writes a range of zeros.
func (s *Writer) Zeros(offset, length int64) error { return s.frame(kindZeros, offset, length, nil) }

// End ends the stream with its checksum, and returns its description. It fails with dataset.ErrInvalid if the stream
// has fewer bytes than NewWriter was told to skip.
func (s *Writer) End() (backends.Stream, error) {
	out := backends.Stream{Base: s.header.Base, Size: s.header.Size}
	err := s.w.Flush()
	if err == nil {
		sum := s.sum.Sum(nil)
		err = s.frame(kindEnd, 0, int64(len(sum)), sum)
	}
	if err == nil {
		err = s.w.Flush()
	}
	if err != nil {
		return out, err
	}
	out.Bytes, out.Sum = s.skipper.total, hex.EncodeToString(s.sum.Sum(nil))
	if s.skipper.skip > out.Bytes {
		return out, dataset.Errorf(dataset.ErrInvalid, "its stream has %d bytes, none from %d on", out.Bytes,
			s.skipper.skip)
	}
	return out, nil
}

// skipWriter passes on all bytes except the first ones.
type skipWriter struct {
	w     io.Writer
	skip  int64 // bytes
	total int64 // bytes that were written to it, including the skipped ones
}

// Write implements io.Writer.
func (r *skipWriter) Write(b []byte) (int, error) {
	skip := min(max(r.skip-r.total, 0), int64(len(b)))
	r.total += int64(len(b))
	if skip == int64(len(b)) {
		return len(b), nil
	}
	n, err := r.w.Write(b[skip:])
	return int(skip) + n, err
}
