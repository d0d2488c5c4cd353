// Package loopback connects a client of the API to a handler in the same process. Only tests use it, and the daemon
// (cmd/drover/internal/daemon) in a build for tests. Its only state is the handlers that run.
package loopback

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"sync"

	"github.com/droverhq/drover/control/api/client"
	"github.com/droverhq/drover/control/api/wire"
)

// New returns a client of a handler in this process, without sockets. As with a connection, long answers
// are streamed. The context of the handler ends when the caller's context ends, or when the caller closes the
// answer.
func New(handler http.Handler) *client.Client {
	t := &loopback{handler: handler}
	return client.Over(t, t.running.Wait)
}

type loopback struct {
	handler http.Handler
	running sync.WaitGroup
}

func (l *loopback) RoundTrip(req *http.Request) (*http.Response, error) {
	if wire.WantsTrailers(req) || req.Header.Get("Accept") == wire.EventStreamType {
		return l.stream(req)
	}
	return l.whole(req)
}

// whole runs the handler of a short answer on the caller's goroutine. That costs half as much as two goroutines and
// the switches between them. Agents make such requests for every volume.
func (l *loopback) whole(req *http.Request) (resp *http.Response, err error) {
	w := &recorder{header: http.Header{}}
	defer func() {
		if v := recover(); v != nil {
			resp, err = nil, brokenOff(v)
		}
	}()
	served := serverSide(req.Context(), req)
	l.handler.ServeHTTP(w, served)
	return respond(req, w.header, w.status, io.NopCloser(&w.body)), nil
}

// stream runs the handler in another goroutine.
func (l *loopback) stream(req *http.Request) (*http.Response, error) {
	ctx, cancel := context.WithCancel(req.Context())
	served := serverSide(ctx, req)
	x := &exchange{ctx: ctx, cancel: cancel, request: req, header: http.Header{}, begun: make(chan struct{})}
	x.moved.L = &x.mu
	l.running.Go(func() {
		defer func() { x.finish(recover()) }()
		l.handler.ServeHTTP(x, served)
	})
	select {
	case <-x.begun:
		return x.answer()
	case <-ctx.Done():
		cancel()
		return nil, ctx.Err()
	}
}

// serverSide returns the request as a handler receives it.
func serverSide(ctx context.Context, req *http.Request) *http.Request {
	served := req.WithContext(ctx)
	served.RequestURI = req.URL.RequestURI()
	if served.Body == nil {
		served.Body = http.NoBody
	}
	return served
}

func respond(req *http.Request, header http.Header, status int, body io.ReadCloser) *http.Response {
	if status == 0 {
		status = http.StatusOK
	}
	return &http.Response{
		Status: strconv.Itoa(status) + " " + http.StatusText(status), StatusCode: status,
		Proto: "HTTP/1.1", ProtoMajor: 1, ProtoMinor: 1,
		Header: header, Trailer: http.Header{}, Body: body, ContentLength: -1, Request: req,
	}
}

// brokenOff returns the error that a peer sees when a handler panics.
func brokenOff(v any) error {
	if wire.IsAbort(v) {
		return io.ErrUnexpectedEOF
	}
	return fmt.Errorf("the handler panicked: %v", v)
}

// recorder holds a short answer.
type recorder struct {
	header http.Header
	status int
	body   bytes.Buffer
}

func (w *recorder) Header() http.Header { return w.header }

func (w *recorder) WriteHeader(status int) {
	if w.status == 0 {
		w.status = status
	}
}

func (w *recorder) Write(b []byte) (int, error) { return w.body.Write(b) }

// exchange is both ends of one answer: the http.ResponseWriter of the handler and the body of the caller's
// response.
type exchange struct {
	ctx     context.Context
	cancel  context.CancelFunc
	request *http.Request
	header  http.Header
	begun   chan struct{} // closed once the response exists or the handler failed

	mu       sync.Mutex
	moved    sync.Cond // signals a change of the fields below
	status   int
	response *http.Response // nil before begin, and if the handler failed before it
	buf      bytes.Buffer   // written by the handler and not yet read
	done     bool           // the handler has returned
	broken   error          // why the handler failed
	closed   bool           // the caller has closed the body
}

// window is how much a handler can write before the caller reads.
const window = 64 << 10

func (x *exchange) Header() http.Header { return x.header }

func (x *exchange) WriteHeader(status int) {
	x.mu.Lock()
	defer x.mu.Unlock()
	if x.status == 0 {
		x.status = status
	}
}

func (x *exchange) Write(b []byte) (n int, err error) {
	x.mu.Lock()
	defer x.mu.Unlock()
	for len(b) > 0 {
		room := min(window-x.buf.Len(), len(b))
		if room > 0 {
			x.buf.Write(b[:room])
			b, n = b[room:], n+room
			x.moved.Broadcast()
			continue
		}
		x.begin()
		if err := x.wait(func() bool { return x.buf.Len() < window || x.closed }); err != nil {
			return n, err
		}
		if x.closed {
			return n, io.ErrClosedPipe
		}
	}
	return n, nil
}

// Flush gives the caller the header and what was written so far.
func (x *exchange) Flush() {
	x.mu.Lock()
	defer x.mu.Unlock()
	x.begin()
}

// begin creates the response. The handler may still change its header, to set trailers. The lock is held.
func (x *exchange) begin() {
	if x.response != nil {
		return
	}
	header := x.header
	if !x.done {
		header = header.Clone()
	}
	x.response = respond(x.request, header, x.status, x) //nolint:bodyclose // x is the body, and the caller closes it
	close(x.begun)
}

func (x *exchange) finish(panicked any) {
	x.mu.Lock()
	defer x.mu.Unlock()
	x.done = true
	if panicked != nil {
		x.broken = brokenOff(panicked)
	}
	if x.broken != nil && x.response == nil {
		close(x.begun)
		return
	}
	x.begin()
	if x.broken == nil && x.header.Get("Trailer") != "" {
		for _, name := range wire.TrailerNames() {
			if v := x.header.Values(name); v != nil {
				x.response.Trailer[name] = v
			}
		}
	}
	x.moved.Broadcast()
}

func (x *exchange) answer() (*http.Response, error) {
	x.mu.Lock()
	defer x.mu.Unlock()
	if x.response == nil {
		x.cancel()
		return nil, x.broken
	}
	return x.response, nil
}

// Read returns what the handler has written.
func (x *exchange) Read(b []byte) (int, error) {
	x.mu.Lock()
	defer x.mu.Unlock()
	if len(b) == 0 {
		return 0, nil
	}
	if err := x.wait(func() bool { return x.buf.Len() > 0 || x.done || x.closed }); err != nil {
		return 0, err
	}
	switch {
	case x.closed:
		return 0, errors.New("read of a closed answer")
	case x.buf.Len() > 0:
		x.moved.Broadcast()
		return x.buf.Read(b)
	case x.broken != nil:
		return 0, x.broken
	}
	return 0, io.EOF
}

// Close ends the handler's context.
func (x *exchange) Close() error {
	x.mu.Lock()
	defer x.mu.Unlock()
	x.closed = true
	x.cancel()
	x.moved.Broadcast()
	return nil
}

// wait returns nil once until() is true. If the context ends first, it returns the error of the context. The caller
// holds the lock, and wait releases it while it waits.
func (x *exchange) wait(until func() bool) error {
	if until() {
		return nil
	}
	stop := context.AfterFunc(x.ctx, func() {
		x.mu.Lock()
		defer x.mu.Unlock()
		x.moved.Broadcast()
	})
	defer stop()
	for !until() {
		if err := x.ctx.Err(); err != nil {
			return err
		}
		x.moved.Wait()
	}
	return nil
}
