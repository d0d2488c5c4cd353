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
)

// connection sends calls to the servers of one cluster, and remembers which of them answers.
type connection struct {
	servers  []remote
	current  atomic.Uint32 // index of the server that is asked first, modulo the number of servers
	patience time.Duration // how long one of several servers may take to answer; 0: any time
	close    func()
	version  string // version of this program; empty: not sent
}

// remote is one that a client can ask.
type remote struct {
	base     string // http://host, without a slash at the end
	endpoint string // as people write it
	// transport, and no http.Client: no endpoint redirects.
	transport http.RoundTripper
}

func (c *connection) now() int { return int(c.current.Load()) % len(c.servers) }

// leave goes on to the next server, unless another call has done so.
func (c *connection) leave(at int) {
	c.current.CompareAndSwap(uint32(at), uint32((at+1)%len(c.servers)))
}

// each makes the call at one server after the other until one answers, and has
// use take in a good answer and close its body: its error counts as the server's.
func (c *connection) each(ctx context.Context, k call, use func(*remote, *http.Response) error) error {
	var away []error
	for range c.servers {
		at := c.now()
		s := &c.servers[at]
		err := c.once(ctx, s, k, use)
		if err != nil && k.repeat != nil && brokeOff(err) && ctx.Err() == nil {
			k.body, k.repeat = k.repeat(), nil // as net/http does by itself for calls without repeat
			err = c.once(ctx, s, k, use)
		}
		if err == nil || len(c.servers) == 1 {
			return err
		}
		if errors.Is(ctx.Err(), context.DeadlineExceeded) {
			c.leave(at)
		}
		if dataset.KindOf(err) != dataset.ErrUnavailable || ctx.Err() != nil {
			return err
		}
		c.leave(at)
		away = append(away, err)
		if unsent(err) {
			continue
		}
		if !k.twice() {
			return err
		}
		if k.repeat != nil {
			k.body, k.repeat = k.repeat(), nil
		}
	}
	return allAway(away)
}

// once makes the call at one server.
func (c *connection) once(ctx context.Context, s *remote, k call, use func(*remote, *http.Response) error) error {
	resp, err := c.attempt(ctx, s, k) //nolint:bodyclose // use closes it
	if err == nil {
		err = use(s, resp)
	}
	return err
}

// do makes the call and returns its answer when it is a good one, and who gave it;
// the caller closes the body.
func (c *connection) do(ctx context.Context, k call) (resp *http.Response, from *remote, err error) {
	err = c.each(ctx, k, func(s *remote, r *http.Response) error {
		resp, from = r, s
		return nil
	})
	return resp, from, err
}

// attempt makes the call at one server.
func (c *connection) attempt(ctx context.Context, s *remote, k call) (*http.Response, error) {
	actx, stop, end := ctx, func() bool { return true }, context.CancelCauseFunc(nil)
	if c.patience > 0 && k.twice() {
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
	resp, err := s.transport.RoundTrip(req)
	if !stop() && ctx.Err() == nil && err != nil {
		err = errSilent
	}
	if err == nil && resp.StatusCode < 300 {
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
		return nil, s.failed(ctx, k, nil) // it may well be why
	}
	return nil, s.refused(resp)
}

// tell makes a call whose answer has no body.
func (c *connection) tell(ctx context.Context, k call) error {
	return c.each(ctx, k, func(_ *remote, resp *http.Response) error {
		_, _ = io.Copy(io.Discard, io.LimitReader(resp.Body, maxProblem)) // so that the connection can be used again
		return resp.Body.Close()
	})
}

// endingBody ends the context of its request when it is closed.
type endingBody struct {
	io.ReadCloser
	end context.CancelCauseFunc
}

func (b *endingBody) Close() error {
	defer b.end(nil)
	return b.ReadCloser.Close()
}

// download returns the trailers of an answer that is whole.
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
		return nil, from.failed(ctx, k, fmt.Errorf("the archive broke off (what was written is not the whole): %w",
			err))
	}
	if ctx.Err() != nil {
		return nil, from.failed(ctx, k, nil)
	}
	return resp.Trailer, wire.StreamError(resp.Trailer)
}
