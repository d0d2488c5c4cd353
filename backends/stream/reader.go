package stream

import (
	"bufio"
	"cmp"
	"crypto/sha256"
	"encoding"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"hash"
	"io"
	"math"

	"github.com/droverhq/drover/backends"
	"github.com/droverhq/drover/dataset"
)

// Mark is a place between two frames of a stream. It is recorded, so that the stream can be resumed there.
type Mark struct {
	Offset int64  `json:"offset"` // in the stream
	End    int64  `json:"end"`    // of the last range
	Sum    []byte `json:"sum"`    // the state of the checksum over everything before
}

// Reader reads a stream. It reports anything wrong with the stream as dataset.ErrCorrupt. It reports a stream that ends
// early as io.ErrUnexpectedEOF, because the rest may arrive later.
type Reader struct {
	Header Header
	// Limit is where the last range may end. If 0, there is no limit.
	Limit int64

	r       *bufio.Reader
	sum     hash.Hash
	offset  int64 // in the stream
	end     int64 // of the last range
	payload []byte
}

// NewReader reads the beginning of a stream.
func NewReader(r io.Reader) (*Reader, error) {
	in := newReader(r)
	var m [len(magic)]byte
	if err := in.read(m[:]); err != nil {
		return nil, err
	}
	if string(m[:]) != magic {
		return nil, Corrupt("not a stream of a snapshot")
	}
	kind, _, _, payload, err := in.frame()
	switch {
	case err != nil:
		return nil, err
	case kind != kindHeader:
		return nil, Corrupt("its first frame is not a header")
	}
	if err := dataset.DecodeRecord(payload, &in.Header); err != nil {
		return nil, Corrupt("cannot read its header: %w", err)
	}
	return in, nil
}

// Resume continues a stream at a mark instead of its beginning.
func Resume(r io.Reader, h Header, at Mark) (*Reader, error) {
	in := newReader(r)
	in.Header, in.offset, in.end = h, at.Offset, at.End
	if err := in.sum.(encoding.BinaryUnmarshaler).UnmarshalBinary(at.Sum); err != nil {
		return nil, Corrupt("cannot use the record of the received part: %w", err)
	}
	return in, nil
}

func newReader(r io.Reader) *Reader {
	return &Reader{r: bufio.NewReaderSize(r, 64<<10), sum: sha256.New()}
}

// Mark returns the position in the stream. The last frame must have been read completely.
func (in *Reader) Mark() (at Mark, err error) {
	at = Mark{Offset: in.offset, End: in.end}
	at.Sum, err = in.sum.(encoding.BinaryMarshaler).MarshalBinary()
	return at, err
}

// Stream describes the stream. It must have been read completely.
func (in *Reader) Stream() backends.Stream {
	return backends.Stream{
		Base: in.Header.Base, Size: in.Header.Size, Bytes: in.offset, Sum: hex.EncodeToString(in.sum.Sum(nil)),
	}
}

// Range is one range of a stream: data, or zeros if the data is nil.
type Range struct {
	Offset, Length int64
	Data           []byte
}

// Next returns the next range. Its data is valid until the next call. Next returns io.EOF after the end of a whole
// stream whose checksum is right.
func (in *Reader) Next() (Range, error) {
	kind, offset, length, payload, err := in.frame()
	if err != nil {
		return Range{}, err
	}
	switch kind {
	case kindEnd:
		if _, err := in.r.ReadByte(); err == nil {
			return Range{}, Corrupt("it continues after its end")
		}
		return Range{}, io.EOF
	case kindData, kindZeros:
	default:
		return Range{}, Corrupt("a frame of unknown kind %q", kind)
	}
	limit := in.Limit
	limit = cmp.Or(limit, math.MaxInt64)
	if offset < in.end || length <= 0 || length > limit || offset > limit-length {
		return Range{}, Corrupt("a range of %d bytes at %d, after %d of at most %d", length, offset, in.end, limit)
	}
	in.end = offset + length
	return Range{Offset: offset, Length: length, Data: payload}, nil
}

// frame reads one frame. The payload is valid until the next frame is read. If the frame is the end, its checksum was
// verified.
func (in *Reader) frame() (kind byte, offset, length int64, payload []byte, err error) {
	fail := func(err error) (byte, int64, int64, []byte, error) { return 0, 0, 0, nil, err }
	var h [frameHeader]byte
	if err := in.fill(h[:]); err != nil {
		return fail(err)
	}
	kind = h[0]
	offset, length = int64(binary.LittleEndian.Uint64(h[1:])), int64(binary.LittleEndian.Uint64(h[9:]))
	var before []byte // the checksum of everything before the frame
	if kind == kindEnd {
		before = in.sum.Sum(nil)
	}
	in.add(h[:])
	if kind == kindZeros {
		return kind, offset, length, nil, nil
	}
	if length < 0 || length > MaxPayload {
		return fail(Corrupt("a frame of %d bytes", length))
	}
	if int64(cap(in.payload)) < length {
		in.payload = make([]byte, length)
	}
	payload = in.payload[:length]
	if err := in.read(payload); err != nil {
		return fail(err)
	}
	if kind == kindEnd && (offset != 0 || string(payload) != string(before)) {
		return fail(Corrupt("its checksum is wrong"))
	}
	return kind, offset, length, payload, nil
}

// read fills b and adds it to the checksum of the stream.
func (in *Reader) read(b []byte) error {
	if err := in.fill(b); err != nil {
		return err
	}
	in.add(b)
	return nil
}

func (in *Reader) fill(b []byte) error {
	_, err := io.ReadFull(in.r, b)
	if errors.Is(err, io.EOF) {
		err = io.ErrUnexpectedEOF
	}
	if err != nil {
		return fmt.Errorf("the stream ended early, %d bytes from its start: %w", in.offset, err)
	}
	return nil
}

func (in *Reader) add(b []byte) {
	in.sum.Write(b)
	in.offset += int64(len(b))
}

// Corrupt returns the error of a bad stream.
func Corrupt(format string, args ...any) error {
	return dataset.Errorf(dataset.ErrCorrupt, "bad stream: "+format, args...)
}
