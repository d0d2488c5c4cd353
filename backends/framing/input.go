package framing

import (
	"bufio"
	"crypto/sha256"
	"encoding"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"hash"
	"io"
	"strconv"
	"strings"

	"github.com/droverhq/drover/dataset"
)

// Position is a place between two frames of a stream. It is recorded, so that the stream can be resumed there.
type Position struct {
	Offset int64  `json:"offset"` // in the stream
	Next   uint32 `json:"next"`   // the number of the next frame
	Sum    []byte `json:"sum"`    // the state of the checksum over everything before
}

// Input reads the frames of a stream. It reports anything wrong with the stream as dataset.ErrCorrupt. It reports a
// stream that ends early as io.ErrUnexpectedEOF, because the rest may arrive later. It is not safe for concurrent use.
type Input struct {
	r       *bufio.Reader
	sum     hash.Hash
	before  []byte // the checksum of everything before the present frame
	offset  int64
	next    uint32
	payload []byte
}

// NewInput returns an input that has read nothing.
func NewInput(r io.Reader) *Input {
	return &Input{r: bufio.NewReaderSize(r, 64<<10), sum: sha256.New()}
}

// Begin reads the magic. It fails with dataset.ErrUnsupported if the magic is that of a later version of the format.
// what names the format in errors.
func (in *Input) Begin(magic, what string) error {
	m := make([]byte, len(magic))
	if err := in.read(m); err != nil {
		return err
	}
	if string(m) == magic {
		return nil
	}
	name, known := parseMagic(magic)
	if n, version := parseMagic(string(m)); n == name && version > 0 {
		if err := dataset.CheckFormat("the stream of "+what, version, known); err != nil {
			return err
		}
	}
	return Corrupt("not a stream of %s", what)
}

// parseMagic divides a magic such as "drover-image/1\r\n" into the name of the format and its version. All magics of a
// format have the same length, so with a version of two digits the final \n is missing. The version is 0 if the text is
// not a magic.
func parseMagic(magic string) (name string, version int) {
	name, rest, _ := strings.Cut(magic, "/")
	digits := strings.TrimRight(rest, "\r\n")
	if end := rest[len(digits):]; end != "\r\n" && end != "\r" || strings.HasPrefix(digits, "0") {
		return name, 0
	}
	v, err := strconv.ParseUint(digits, 10, 16)
	if err != nil {
		return name, 0
	}
	return name, int(v)
}

// Describe decodes the first frame of a stream into header.
func Describe(kind byte, payload []byte, header any) error {
	if kind != Start {
		return Corrupt("its first frame is not a header")
	}
	if err := dataset.DecodeRecord(payload, header); err != nil {
		return Corrupt("cannot read its header: %w", err)
	}
	return nil
}

// Resume continues a stream at a position instead of its beginning.
func (in *Input) Resume(at Position) error {
	in.offset, in.next = at.Offset, at.Next
	if err := in.sum.(encoding.BinaryUnmarshaler).UnmarshalBinary(at.Sum); err != nil {
		return Corrupt("cannot use the record of the received part: %w", err)
	}
	return nil
}

// Position returns the position after the last frame, which must have been read completely.
func (in *Input) Position() (at Position, err error) {
	at = Position{Offset: in.offset, Next: in.next}
	at.Sum, err = in.sum.(encoding.BinaryMarshaler).MarshalBinary()
	return at, err
}

// Offset returns how many bytes of the stream were read, including those before a position where it was resumed.
func (in *Input) Offset() int64 { return in.offset }

// Checksum returns the SHA-256 of the part of the stream that was read, in hexadecimal digits.
func (in *Input) Checksum() string { return hex.EncodeToString(in.sum.Sum(nil)) }

// ReadHeader reads the header of the next frame.
func (in *Input) ReadHeader(header []byte) error {
	in.before = in.sum.Sum(in.before[:0])
	return in.read(header)
}

// CheckNumber fails unless the header has the number of the next frame. It returns the number of the frame.
func (in *Input) CheckNumber(header []byte) (uint32, error) {
	number := binary.LittleEndian.Uint32(header[4:])
	if number != in.next {
		return number, Corrupt("frame %d instead of %d", number, in.next)
	}
	in.next++
	return number, nil
}

// Next returns the number of the next frame.
func (in *Input) Next() uint32 { return in.next }

// ReadPayload reads the payload of the present frame. The payload is valid until the next call.
func (in *Input) ReadPayload(length, maxLength int64) ([]byte, error) {
	if length < 0 || length > maxLength {
		return nil, Corrupt("a frame of %d bytes", length)
	}
	if int64(cap(in.payload)) < length {
		in.payload = make([]byte, length)
	}
	payload := in.payload[:length]
	return payload, in.read(payload)
}

// CheckSum verifies the checksum of the whole stream. payload is the payload of the end frame. CheckSum fails if it
// differs from the checksum of all bytes before that frame.
func (in *Input) CheckSum(payload []byte) error {
	if string(payload) != string(in.before) {
		return Corrupt("the checksum of the whole stream is wrong")
	}
	return nil
}

// CheckEnd fails if the stream continues after its last frame.
func (in *Input) CheckEnd() error {
	if _, err := in.r.ReadByte(); err == nil {
		return Corrupt("it continues after its end")
	}
	return nil
}

// read fills b and adds it to the checksum of the stream.
func (in *Input) read(b []byte) error {
	_, err := io.ReadFull(in.r, b)
	if errors.Is(err, io.EOF) {
		err = io.ErrUnexpectedEOF
	}
	if err != nil {
		return fmt.Errorf("the stream ended early, %d bytes from its start: %w", in.offset, err)
	}
	in.sum.Write(b)
	in.offset += int64(len(b))
	return nil
}

// Corrupt returns the error of a bad stream.
func Corrupt(format string, args ...any) error {
	return dataset.Errorf(dataset.ErrCorrupt, "bad stream: "+format, args...)
}
