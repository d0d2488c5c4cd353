package spool

import (
	"io"

	"github.com/droverhq/drover/backends"
)

// Rest passes on all but the first bytes: a stream is made again for a receiver that has its beginning. Not
// safe for concurrent use.
type Rest struct {
	W     io.Writer
	Skip  int64 // bytes
	Total int64 // bytes that were written to it, the skipped ones too
}

// Write implements io.Writer.
func (r *Rest) Write(b []byte) (int, error) {
	skip := min(max(r.Skip-r.Total, 0), int64(len(b)))
	r.Total += int64(len(b))
	if skip == int64(len(b)) {
		return len(b), nil
	}
	n, err := r.W.Write(b[skip:])
	return int(skip) + n, err
}

// Counting returns a writer to w that tells how much was written.
func Counting(w io.Writer, progress backends.Progress) io.Writer { return &counted{w, 0, progress} }

type counted struct {
	io.Writer
	n        int64
	progress backends.Progress
}

func (c *counted) Write(b []byte) (int, error) {
	n, err := c.Writer.Write(b)
	if c.n += int64(n); c.progress != nil {
		c.progress(c.n, 0)
	}
	return n, err
}
