package agent

import (
	"errors"
	"net/http"
	"net/http/httptest"
	"net/url"
	"sync"
)

// wires are the ways from one agent to the others.
type wires struct {
	mu      sync.Mutex
	servers map[string]*httptest.Server
	cut     bool
}

func (w *wires) add(address string, h *host) {
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
	from *host
}

func (w wire) RoundTrip(r *http.Request) (*http.Response, error) {
	w.mu.Lock()
	s, cut := w.servers[r.URL.Host], w.cut
	w.mu.Unlock()
	if cut || s == nil || w.from.fuse.blown() {
		return nil, errors.New("no route to host")
	}
	u, err := url.Parse(s.URL)
	if err != nil {
		return nil, err
	}
	r = r.Clone(r.Context())
	r.URL.Scheme, r.URL.Host = u.Scheme, u.Host
	r.Header.Set("Node", w.from.agent().Node().String())
	return s.Client().Transport.RoundTrip(r)
}
