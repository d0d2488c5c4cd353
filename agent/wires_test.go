package agent

import (
	"context"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"sync"
)

// wires are the ways from one agent to the others.
type wires struct {
	mu      sync.Mutex
	servers map[string]*httptest.Server
	cut     bool
	stalled chan struct{}        // streams wait until it is closed; nil: they do not
	waiting int                  // streams that do
	brought map[*flockHost]int64 // bytes of the streams that came to each
}

// stall has streams begin no more until what it returns is called.
func (w *wires) stall() (goOn func()) {
	w.mu.Lock()
	defer w.mu.Unlock()
	stalled := make(chan struct{})
	w.stalled = stalled
	return sync.OnceFunc(func() {
		w.mu.Lock()
		defer w.mu.Unlock()
		w.stalled = nil
		close(stalled)
	})
}

// stuck returns how many streams wait.
func (w *wires) stuck() int {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.waiting
}

func (w *wires) pass(r *http.Request) error {
	w.mu.Lock()
	stalled := w.stalled
	if stalled == nil || !strings.HasSuffix(r.URL.Path, "/stream") {
		w.mu.Unlock()
		return nil
	}
	w.waiting++
	w.mu.Unlock()
	defer func() {
		w.mu.Lock()
		defer w.mu.Unlock()
		w.waiting--
	}()
	select {
	case <-stalled:
		return nil
	case <-r.Context().Done():
		return context.Cause(r.Context())
	}
}

func (w *wires) add(address string, h *flockHost) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.servers == nil {
		w.servers = map[string]*httptest.Server{}
	}
	w.servers[address] = httptest.NewServer(http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
		a := h.agent()
		if a == nil || h.fuse.blown() {
			rw.WriteHeader(http.StatusServiceUnavailable)
			return
		}
		a.Peers().ServeHTTP(rw, r)
	}))
}

func (w *wires) close() {
	for _, s := range w.servers {
		s.CloseClientConnections()
		s.Close()
	}
}

func (w *wires) setCut(cut bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.cut = cut
	if cut {
		for _, s := range w.servers {
			s.CloseClientConnections()
		}
	}
}

// wire is the way of one host to all others.
type wire struct {
	*wires
	from *flockHost
}

func (w wire) RoundTrip(r *http.Request) (*http.Response, error) {
	w.mu.Lock()
	s, cut := w.servers[r.URL.Host], w.cut
	w.mu.Unlock()
	if cut || s == nil || w.from.fuse.blown() {
		return nil, errors.New("no route to host")
	}
	if err := w.pass(r); err != nil {
		return nil, err
	}
	u, err := url.Parse(s.URL)
	if err != nil {
		return nil, err
	}
	r = r.Clone(r.Context())
	r.URL.Scheme, r.URL.Host = u.Scheme, u.Host
	r.Header.Set("Node", w.from.agent().Node().String())
	resp, err := s.Client().Transport.RoundTrip(r)
	if err == nil && strings.HasSuffix(r.URL.Path, "/stream") {
		resp.Body = &counted{resp.Body, w}
	}
	return resp, err
}

// counted counts what comes to a host.
type counted struct {
	io.ReadCloser
	to wire
}

func (c *counted) Read(b []byte) (int, error) {
	n, err := c.ReadCloser.Read(b)
	c.to.mu.Lock()
	defer c.to.mu.Unlock()
	if c.to.brought == nil {
		c.to.brought = map[*flockHost]int64{}
	}
	c.to.brought[c.to.from] += int64(n)
	return n, err
}

// broughtTo returns how many bytes of streams came to a host.
func (w *wires) broughtTo(h *flockHost) int64 {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.brought[h]
}
