package client

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"sync/atomic"
	"time"

	"github.com/droverhq/drover/control/api/wire"
	"github.com/droverhq/drover/dataset"
	"github.com/droverhq/drover/internal/clock"
	"github.com/droverhq/drover/internal/requestid"
)

// connection sends calls to the servers of one cluster, and remembers which of them answers.
type connection struct {
	servers  []remote
	current  atomic.Uint32 // index of the server that is asked first, modulo the number of servers
	patience time.Duration // how long one of several servers may take to answer; 0: any time
	close    func()
	version  string // version of this program; empty: not sent
	knownAt  func(time.Time)
	observe  func(route string, err error, took time.Duration)
}

// remote is one server that a client can ask.
type remote struct {
	base     string // such as http://host, without a slash at the end
	endpoint string // the address as the user wrote it
	// A transport suffices, since no endpoint redirects.
	transport http.RoundTripper
}

func (c *connection) currentIndex() int { return int(c.current.Load()) % len(c.servers) }

// useNext makes the next server the current one, unless another call has already done so.
func (c *connection) useNext(at int) {
	c.current.CompareAndSwap(uint32(at), uint32((at+1)%len(c.servers)))
}

// each sends the call to one server after the other until one answers. It passes a successful answer to use, which
// closes the body. If use fails, the call is treated as if the server had failed.
func (c *connection) each(ctx context.Context, k call, use func(*remote, *http.Response) error) (err error) {
	if k.invalid != nil {
		return k.invalid
	}
	if c.observe != nil {
		began := clock.System{}.Steady()
		defer func() { c.observe(k.route, err, clock.System{}.Steady()-began) }()
	}
	var away []error
	for range c.servers {
		at := c.currentIndex()
		s := &c.servers[at]
		err := c.once(ctx, s, k, use)
		if err != nil && k.repeat != nil && connectionBroke(err) && ctx.Err() == nil {
			k.body, k.repeat = k.repeat(), nil // net/http does this itself for calls without repeat
			err = c.once(ctx, s, k, use)
		}
		if err == nil || len(c.servers) == 1 {
			return err
		}
		if errors.Is(ctx.Err(), context.DeadlineExceeded) {
			c.useNext(at)
		}
		if dataset.KindOf(err) != dataset.ErrUnavailable || ctx.Err() != nil {
			return err
		}
		c.useNext(at)
		away = append(away, err)
		if neverSent(err) {
			continue
		}
		if !k.repeatable() {
			return err
		}
		if k.repeat != nil {
			k.body, k.repeat = k.repeat(), nil
		}
	}
	return noneAnsweredError(away)
}

// once sends the call to one server and passes a successful answer to use.
func (c *connection) once(ctx context.Context, s *remote, k call, use func(*remote, *http.Response) error) error {
	resp, err := c.attempt(ctx, s, k) //nolint:bodyclose // use closes it
	if err == nil {
		err = use(s, resp)
	}
	return err
}

// do sends the call and returns a successful answer with the server that gave it. The caller closes the body.
func (c *connection) do(ctx context.Context, k call) (resp *http.Response, from *remote, err error) {
	err = c.each(ctx, k, func(s *remote, r *http.Response) error {
		resp, from = r, s
		return nil
	})
	return resp, from, err
}

// attempt sends the call to one server, and returns its answer if that is successful.
func (c *connection) attempt(ctx context.Context, s *remote, k call) (*http.Response, error) {
	actx, stop, end := ctx, func() bool { return true }, context.CancelCauseFunc(nil)
	if c.patience > 0 && k.repeatable() {
		actx, end = context.WithCancelCause(ctx)
		stop = time.AfterFunc(c.patience+k.patience, func() { end(errSilent) }).Stop
	}
	req, err := k.request(actx, s.base)
	if err != nil {
		return nil, err
	}
	if name := wire.ProductName(c.version); name != "" {
		req.Header.Set("User-Agent", name)
	}
	requestid.SetHeader(ctx, req.Header)
	requestid.SetBy(ctx, req.Header)
	resp, err := s.transport.RoundTrip(req)
	if !stop() && ctx.Err() == nil && err != nil {
		err = errSilent
	}
	if err == nil && resp.StatusCode < 300 && !isProblem(resp) {
		if at, ok := wire.KnownAt(resp.Header); ok && c.knownAt != nil {
			c.knownAt(at)
		}
		if end != nil {
			resp.Body = &endingBody{resp.Body, end}
		}
		return resp, nil
	}
	if end != nil {
		defer end(nil)
	}
	if err != nil {
		return nil, s.failed(ctx, k, brokenOffError{err})
	}
	defer resp.Body.Close()
	if ctx.Err() != nil {
		return nil, s.failed(ctx, k, nil) // the end of the context may be the reason for the refusal
	}
	return nil, s.refused(resp)
}

// send makes a call whose answer has no body.
func (c *connection) send(ctx context.Context, k call) error {
	return c.each(ctx, k, func(_ *remote, resp *http.Response) error {
		_, _ = io.Copy(io.Discard, io.LimitReader(resp.Body, maxProblem)) // so that the connection can be used again
		return resp.Body.Close()
	})
}

// endingBody is the body of an answer. Close also ends the context of the request.
type endingBody struct {
	io.ReadCloser
	end context.CancelCauseFunc
}

func (b *endingBody) Close() error {
	defer b.end(nil)
	return b.ReadCloser.Close()
}

// download copies a stream to w and returns its trailers. It fails if the stream is incomplete.
func (c *connection) download(ctx context.Context, k call, w io.Writer) (http.Header, error) {
	k.header = http.Header{"Te": {"trailers"}}
	resp, from, err := c.do(ctx, k)
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	sink := &watchedSink{w: w}
	if _, err := io.Copy(sink, resp.Body); err != nil {
		if sink.err != nil {
			return nil, sink.err
		}
		return nil, from.failed(ctx, k, fmt.Errorf("the archive ended early and is incomplete: %w",
			err))
	}
	if ctx.Err() != nil {
		return nil, from.failed(ctx, k, nil)
	}
	return resp.Trailer, wire.StreamError(resp.Trailer)
}
