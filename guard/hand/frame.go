package hand

import (
	"encoding/binary"
	"encoding/json"
	"io"

	"github.com/droverhq/drover/dataset"
)

// A frame carries JSON over a stream: four bytes of length, high byte first, and as many bytes of JSON.

const frameHead = 4

// WriteFrame sends v in one write. If v takes more than max bytes, WriteFrame sends nothing and returns ErrInvalid.
func WriteFrame(w io.Writer, v any, max int) error {
	b, err := json.Marshal(v)
	if err != nil {
		return err
	}
	if len(b) > max {
		return dataset.Errorf(dataset.ErrInvalid, "a message of %d bytes: expected %d at most", len(b), max)
	}
	out := make([]byte, frameHead, frameHead+len(b))
	binary.BigEndian.PutUint32(out, uint32(len(b)))
	_, err = w.Write(append(out, b...))
	return err
}

// ReadFrame receives a message into v. It returns io.EOF if the stream ended between two messages, and
// io.ErrUnexpectedEOF if it ended within one. It returns ErrInvalid for a message that is not JSON of v's type. It also
// returns ErrInvalid for a message of more than max bytes, and does not read the content of such a message. The stream
// cannot be used after an error.
func ReadFrame(r io.Reader, v any, max int) error {
	var size [frameHead]byte
	if _, err := io.ReadFull(r, size[:]); err != nil {
		return err
	}
	n := binary.BigEndian.Uint32(size[:])
	if uint64(n) > uint64(max) {
		return dataset.Errorf(dataset.ErrInvalid, "a message of %d bytes: expected %d at most", n, max)
	}
	b := make([]byte, n)
	if _, err := io.ReadFull(r, b); err != nil {
		if err == io.EOF {
			err = io.ErrUnexpectedEOF
		}
		return err
	}
	if err := json.Unmarshal(b, v); err != nil {
		return dataset.Errorf(dataset.ErrInvalid, "not a valid JSON message: %w", err)
	}
	return nil
}
