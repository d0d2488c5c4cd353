package consul

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"net/http"
	"net/http/httptrace"
	"sync"
	"sync/atomic"
	"time"
)

// maxAnswer bounds the memory that one answer takes.
const maxAnswer = 1 << 30

// flights are requests that have been sent. They go on when their caller has gone:
// to end one is to close its connection, and Consul counts that as open until it
// has done what it was asked (http_max_conns_per_client), which without a leader
// takes long. A few dozen callers in a hurry would use up everybody's connections,
// and take along requests of others.
type flights struct {
	life context.Context // of the store
	most time.Duration   // of one

	mu      sync.Mutex
	closed  bool
	running sync.WaitGroup
}

// begin reports whether a request may still be sent.
func (f *flights) begin() bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	if !f.closed {
		f.running.Add(1)
	}
	return !f.closed
}

// wait returns when all have ended; life has, so that they do.
func (f *flights) wait() {
	f.mu.Lock()
	f.closed = true
	f.mu.Unlock()
	f.running.Wait()
}

type landed struct {
	res *http.Response
	err error
}

// carry sends a request and returns the whole answer, or why the caller waits no
// longer. One that has no connection yet by then is not sent.
func (f *flights) carry(to http.RoundTripper, req *http.Request) (*http.Response, error) {
	if !f.begin() {
		return nil, context.Canceled
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(req.Context()), f.most)
	stop := context.AfterFunc(f.life, cancel)
	var sent atomic.Bool
	ctx = httptrace.WithClientTrace(ctx, &httptrace.ClientTrace{GotConn: func(httptrace.GotConnInfo) { sent.Store(true) }})
	done := make(chan landed, 1)
	go func() {
		defer f.running.Done()
		defer cancel()
		defer stop()
		res, err := to.RoundTrip(req.WithContext(ctx))
		if err == nil {
			err = swallow(res)
		}
		done <- landed{res, err}
	}()
	select {
	case l := <-done:
		return l.res, l.err
	case <-req.Context().Done():
		if !sent.Load() {
			cancel()
		}
		return nil, req.Context().Err()
	}
}

// swallow reads the answer, so that its connection is free.
func swallow(res *http.Response) error {
	defer res.Body.Close()
	body, err := io.ReadAll(io.LimitReader(res.Body, maxAnswer+1))
	if err != nil {
		return err
	}
	if len(body) > maxAnswer {
		return fmt.Errorf("its answer has more than %d bytes", maxAnswer)
	}
	res.Body = io.NopCloser(bytes.NewReader(body))
	return nil
}
