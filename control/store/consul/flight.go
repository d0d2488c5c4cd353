package consul

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptrace"
	"sync"
	"time"

	"github.com/droverhq/drover/internal/clock"
)

// maxAnswer bounds the memory that one answer takes.
const maxAnswer = 1 << 30

// flights are requests that have been sent. They continue when their caller has gone: the end of one would
// close its connection, and Consul counts that as open until it has executed the request
// (http_max_conns_per_client), which without a leader takes long. A few dozen callers in a hurry would use up
// everybody's connections, and take along requests of others.
type flights struct {
	life  context.Context // of the store
	most  time.Duration   // of one
	quiet quiet

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
// longer: at most for patience. One that has no connection yet by then is not sent.
func (f *flights) carry(to http.RoundTripper, req *http.Request, patience <-chan time.Time) (*http.Response, error) {
	if err := req.Context().Err(); err != nil {
		return nil, err
	}
	if !f.begin() {
		return nil, context.Canceled
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(req.Context()), f.most)
	stop := context.AfterFunc(f.life, cancel)
	var d departure
	ctx = httptrace.WithClientTrace(ctx, &httptrace.ClientTrace{GotConn: d.connected})
	done := make(chan landed, 1)
	f.quiet.asks()
	go func() {
		defer f.running.Done()
		defer cancel()
		defer stop()
		res, err := to.RoundTrip(req.WithContext(ctx))
		if err == nil {
			err = swallow(res)
		}
		f.quiet.hears(err == nil && answered(res))
		done <- landed{res, err}
	}()
	err := error(silent{})
	select {
	case l := <-done:
		return l.res, l.err
	case <-req.Context().Done():
		err = req.Context().Err()
	case <-patience:
	}
	if d.missed(cancel) && req.Context().Err() == nil {
		err = &net.OpError{Op: "dial", Net: "tcp", Err: err}
	}
	return nil, err
}

// departure decides between a request that is sent and a caller that leaves, if both happen at once: a
// transport sends a request that has got a connection although its context has ended, and then closes that
// connection.
type departure struct {
	mu         sync.Mutex
	gone, left bool // the request; its caller
}

// connected is told of the connection that a request has got. Nothing is written to it yet, and nothing will
// be when the caller has left: it is closed, as if it had been broken.
func (d *departure) connected(got httptrace.GotConnInfo) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.left {
		got.Conn.Close()
		return
	}
	d.gone = true
}

// missed has the caller leave, and reports whether the request is not sent and never will be.
func (d *departure) missed(cancel context.CancelFunc) bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	if !d.gone {
		d.left = true
		cancel()
	}
	return d.left
}

// silent is a server that says nothing for as long as is waited for.
type silent struct{}

func (silent) Error() string   { return "no answer in time" }
func (silent) Timeout() bool   { return true }
func (silent) Temporary() bool { return true }

// quiet is for how long Consul has answered nothing, although it was asked.
type quiet struct {
	clock clock.Clock

	mu    sync.Mutex
	asked int           // requests under way
	since time.Duration // by the steady clock; 0: it has answered all
}

func (q *quiet) asks() {
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.asked++; q.since == 0 {
		q.since = q.clock.Steady()
	}
}

// hears notes the end of a request, even if its caller has left: a server that answers slowly is not silent.
func (q *quiet) hears(answered bool) {
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.asked--; !answered {
		return
	}
	if q.since = 0; q.asked > 0 {
		q.since = q.clock.Steady()
	}
}

func (q *quiet) lasts() time.Duration {
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.since == 0 {
		return 0
	}
	return q.clock.Steady() - q.since
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
