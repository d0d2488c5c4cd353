package stream

import (
	"io"

	"github.com/droverhq/drover/backends"
)

// chunkSize is the number of bytes in each frame except the last.
const chunkSize = 256 << 10

// Send sends the stream that the function write writes, in frames. from is the number of bytes to skip at the start of
// the framed stream: Send produces them, but does not write them. It returns the description of the stream.
func Send(
	w io.Writer, h Header, from int64, progress backends.Progress, write func(io.Writer) error,
) (out backends.Stream, err error) {
	to, err := NewWriter(w, h, from)
	if err != nil {
		return out, err
	}
	c := &chunker{to: to, buf: make([]byte, 0, chunkSize), progress: progress}
	if err := write(c); err != nil {
		return out, err
	}
	if err := c.flush(); err != nil {
		return out, err
	}
	return to.End()
}

// chunker writes frames. They do not depend on how the bytes are divided into calls of Write.
type chunker struct {
	to       *Writer
	buf      []byte
	done     int64 // bytes in the frames so far
	progress backends.Progress
}

// Write implements io.Writer.
func (c *chunker) Write(b []byte) (int, error) {
	n := 0
	for n < len(b) {
		part := min(len(b)-n, chunkSize-len(c.buf))
		c.buf = append(c.buf, b[n:n+part]...)
		n += part
		if len(c.buf) == chunkSize {
			if err := c.flush(); err != nil {
				return n, err
			}
		}
	}
	if c.progress != nil {
		c.progress(c.done+int64(len(c.buf)), 0)
	}
	return n, nil
}

func (c *chunker) flush() error {
	if len(c.buf) == 0 {
		return nil
	}
	err := c.to.Data(c.done, c.buf)
	c.done, c.buf = c.done+int64(len(c.buf)), c.buf[:0]
	return err
}
