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

// maxAnswer is the maximum size of an answer in bytes.
const maxAnswer = 1 << 30

// inflight tracks the requests in progress. A request continues when its caller leaves, because ending it would close
// its connection. Consul counts a connection as open until it has executed the request (http_max_conns_per_client).
// Without a leader, that takes long. So if requests ended with their callers, a few dozen impatient callers would use
// up all connections, and the requests of others would fail.
type inflight struct {
	ctx     context.Context // context of the store
	maxTime time.Duration   // longest duration of one request
	silence silence

	mu      sync.Mutex
	closed  bool
	running sync.WaitGroup
}

// begin counts a request as in progress. It returns false if wait was called, so that the request must not be sent.
func (f *inflight) begin() bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	if !f.closed {
		f.running.Add(1)
	}
	return !f.closed
}

// wait makes begin refuse new requests, and returns when all requests have ended. The caller must cancel f.ctx before,
// which ends the requests.
func (f *inflight) wait() {
	f.mu.Lock()
	f.closed = true
	f.mu.Unlock()
	f.running.Wait()
}

type response struct {
	res *http.Response
	err error
}

// send sends a request and returns the complete answer. It returns an error if the context of the request ends, or if
// patience fires, before the answer has arrived. The request then continues in the background, unless it has no
// connection yet: such a request is not sent at all.
func (f *inflight) send(to http.RoundTripper, req *http.Request, patience <-chan time.Time) (*http.Response, error) {
	if err := req.Context().Err(); err != nil {
		return nil, err
	}
	if !f.begin() {
		return nil, context.Canceled
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(req.Context()), f.maxTime)
	stop := context.AfterFunc(f.ctx, cancel)
	var d sendRace
	ctx = httptrace.WithClientTrace(ctx, &httptrace.ClientTrace{GotConn: d.connected})
	done := make(chan response, 1)
	f.silence.begin()
	go func() {
		defer f.running.Done()
		defer cancel()
		defer stop()
		res, err := to.RoundTrip(req.WithContext(ctx))
		if err == nil {
			err = drain(res)
		}
		f.silence.end(err == nil && isConsulAnswer(res))
		done <- response{res, err}
	}()
	err := error(noAnswerError{})
	select {
	case l := <-done:
		return l.res, l.err
	case <-req.Context().Done():
		err = req.Context().Err()
	case <-patience:
	}
	if d.giveUp(cancel) && req.Context().Err() == nil {
		err = &net.OpError{Op: "dial", Net: "tcp", Err: err}
	}
	return nil, err
}

// sendRace makes sure that a request is not sent after its caller has given up. Without it, the transport could send a
// request whose context has just ended, and would then close the connection.
type sendRace struct {
	mu         sync.Mutex
	sent, left bool // sent: the request is being sent or was sent; left: the caller gave up before that
}

// connected is called when the request has got a connection, before anything is written. If the caller has given up,
// it closes the connection, so that nothing is written.
func (d *sendRace) connected(got httptrace.GotConnInfo) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.left {
		got.Conn.Close()
		return
	}
	d.sent = true
}

// giveUp records that the caller gives up. It returns true if the request was not sent and never will be.
func (d *sendRace) giveUp(cancel context.CancelFunc) bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	if !d.sent {
		d.left = true
		cancel()
	}
	return d.left
}

// noAnswerError is the error for a server that did not answer before patience fired.
type noAnswerError struct{}

func (noAnswerError) Error() string   { return "no answer in time" }
func (noAnswerError) Timeout() bool   { return true }
func (noAnswerError) Temporary() bool { return true }

// silence measures for how long Consul has not answered, although there were requests.
type silence struct {
	clock clock.Clock

	mu      sync.Mutex
	pending int           // requests in progress
	since   time.Duration // by the steady clock; 0 if all requests were answered
}

func (q *silence) begin() {
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.pending++; q.since == 0 {
		q.since = q.clock.Steady()
	}
}

// end records the end of a request. It is also called if the caller of the request has left, because a server that
// answers late is not silent.
func (q *silence) end(answered bool) {
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.pending--; !answered {
		return
	}
	if q.since = 0; q.pending > 0 {
		q.since = q.clock.Steady()
	}
}

func (q *silence) duration() time.Duration {
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.since == 0 {
		return 0
	}
	return q.clock.Steady() - q.since
}

// drain reads the rest of an answer, so that its connection can be used again.
func drain(res *http.Response) error {
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
