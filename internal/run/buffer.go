package run

import "sync"

// Head keeps the first bytes that are written to it. Use it as Command.Stdout for an output that may be longer than
// MaxStdout. It is safe for concurrent use, because the output of a stuck command may still arrive while the caller
// reads the earlier output.
type Head struct {
	// Full, if not nil, is called for each write of which a part is not kept.
	Full func()

	mu        sync.Mutex
	max       int
	buf       []byte
	truncated bool
}

// NewHead returns a Head that keeps the first max bytes.
func NewHead(max int) *Head { return &Head{max: max} }

// Write implements io.Writer. It never fails.
func (h *Head) Write(p []byte) (int, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	room := min(h.max-len(h.buf), len(p))
	h.buf = append(h.buf, p[:room]...)
	h.truncated = h.truncated || room < len(p)
	if h.truncated && h.Full != nil {
		h.Full()
	}
	return len(p), nil
}

// Bytes returns a copy of the bytes that were kept.
func (h *Head) Bytes() []byte {
	h.mu.Lock()
	defer h.mu.Unlock()
	return append([]byte(nil), h.buf...)
}

// Overflowed reports whether more bytes were written than are kept.
func (h *Head) Overflowed() bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.truncated
}

// Tail keeps the last bytes that are written to it. Use it as Command.Stdout for an output of any length whose end
// matters. It is safe for concurrent use, as Head is.
type Tail struct {
	mu  sync.Mutex
	max int
	buf []byte
}

// NewTail returns a Tail that keeps the last max bytes.
func NewTail(max int) *Tail { return &Tail{max: max} }

// Write implements io.Writer. It never fails.
func (t *Tail) Write(p []byte) (int, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.buf = append(t.buf, p...)
	if extra := len(t.buf) - t.max; extra > 0 {
		t.buf = append(t.buf[:0], t.buf[extra:]...)
	}
	return len(p), nil
}

// Bytes returns a copy of the bytes that were kept.
func (t *Tail) Bytes() []byte {
	t.mu.Lock()
	defer t.mu.Unlock()
	return append([]byte(nil), t.buf...)
}
