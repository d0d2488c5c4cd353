package spool

import (
	"io"

	"github.com/droverhq/drover/backends"
)

// Counting returns a writer to w that reports how many bytes were written.
func Counting(w io.Writer, progress backends.Progress) io.Writer {
	return &countingWriter{w, 0, progress}
}

type countingWriter struct {
	io.Writer
	n        int64
	progress backends.Progress
}

func (c *countingWriter) Write(b []byte) (int, error) {
	n, err := c.Writer.Write(b)
	if c.n += int64(n); c.progress != nil {
		c.progress(c.n, 0)
	}
	return n, err
}
