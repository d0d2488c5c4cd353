package agenttest

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

// Network connects the agents of a cluster with each other.
type Network struct {
	mu      sync.Mutex
	servers map[string]*httptest.Server
	cut     bool
	stalled chan struct{}   // if not nil, streams wait until it is closed
	waiting int             // streams that wait
	brought map[*Host]int64 // bytes of streams to each host
}

// StallStreams stops new streams until the function that it returns is called.
func (w *Network) StallStreams() (resume func()) {
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

// StalledStreams returns how many streams wait.
func (w *Network) StalledStreams() int {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.waiting
}

func (w *Network) pass(r *http.Request) error {
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

func (w *Network) add(address string, h *Host) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.servers == nil {
		w.servers = map[string]*httptest.Server{}
	}
	w.servers[address] = httptest.NewServer(http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
		a := h.Answering()
		if a == nil || h.Fuse.Blown() {
			rw.WriteHeader(http.StatusServiceUnavailable)
			return
		}
		a.Peers().ServeHTTP(rw, r)
	}))
}

func (w *Network) close() {
	for _, s := range w.servers {
		s.CloseClientConnections()
		s.Close()
	}
}

// SetCut cuts all connections between hosts, or restores them.
func (w *Network) SetCut(cut bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.cut = cut
	if cut {
		for _, s := range w.servers {
			s.CloseClientConnections()
		}
	}
}

// route is the connection of one host to all others.
type route struct {
	*Network
	from *Host
}

func (w route) RoundTrip(r *http.Request) (*http.Response, error) {
	w.mu.Lock()
	s, cut := w.servers[r.URL.Host], w.cut
	w.mu.Unlock()
	if cut || s == nil || w.from.Fuse.Blown() {
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
	r.Header.Set("Node", w.from.Answering().Node().String())
	resp, err := s.Client().Transport.RoundTrip(r)
	if err == nil && strings.HasSuffix(r.URL.Path, "/stream") {
		resp.Body = &countedBody{resp.Body, w}
	}
	return resp, err
}

// countedBody counts the bytes that a host receives.
type countedBody struct {
	io.ReadCloser
	to route
}

func (c *countedBody) Read(b []byte) (int, error) {
	n, err := c.ReadCloser.Read(b)
	c.to.mu.Lock()
	defer c.to.mu.Unlock()
	if c.to.brought == nil {
		c.to.brought = map[*Host]int64{}
	}
	c.to.brought[c.to.from] += int64(n)
	return n, err
}

// BytesTo returns how many bytes of streams a host received.
func (w *Network) BytesTo(h *Host) int64 {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.brought[h]
}
