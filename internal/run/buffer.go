package run

import "sync"

// head keeps the first max bytes that are written to it. truncated is set if there were more. The mutex protects them,
// because the output of a stuck command may still arrive while the caller reads the earlier output.
type head struct {
	mu        sync.Mutex
	max       int
	buf       []byte
	truncated bool
}

func (h *head) Write(p []byte) (int, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	room := min(h.max-len(h.buf), len(p))
	h.buf = append(h.buf, p[:room]...)
	h.truncated = h.truncated || room < len(p)
	return len(p), nil
}

func (h *head) bytes() []byte {
	h.mu.Lock()
	defer h.mu.Unlock()
	return append([]byte(nil), h.buf...)
}

func (h *head) overflowed() bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.truncated
}

// tail keeps the last max bytes.
type tail struct {
	mu  sync.Mutex
	max int
	buf []byte
}

func (t *tail) Write(p []byte) (int, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.buf = append(t.buf, p...)
	if extra := len(t.buf) - t.max; extra > 0 {
		t.buf = append(t.buf[:0], t.buf[extra:]...)
	}
	return len(p), nil
}

func (t *tail) bytes() []byte {
	t.mu.Lock()
	defer t.mu.Unlock()
	return append([]byte(nil), t.buf...)
}
