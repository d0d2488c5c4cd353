package api

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"github.com/google/uuid"
	"golang.org/x/sys/unix"

	"github.com/droverhq/drover/dataset"
)

const (
	connectTime = 4 * time.Second
	// handshakeTime is what a server has that is there: all agents at once, whose replica
	// died, keep another busy for a while, and the longer the more of them give up and begin
	// anew. One that is cut off meanwhile is found out by silence.
	handshakeTime = 10 * time.Second
	// answerTime is what one of several servers has to answer: more than it waits for
	// a leader of its store, so that it is not left for that.
	answerTime = 12 * time.Second
	// silence is after how long a connection whose peer acknowledges nothing is
	// dead: a cut network says nothing. Two servers that are both cut off have ten seconds
	// together, for whoever waits behind Docker.
	silence = 4 * time.Second
)

func keepAlive() net.KeepAliveConfig {
	return net.KeepAliveConfig{Enable: true, Idle: silence / 2, Interval: silence / 4, Count: 2}
}

// giveUp bounds how long what was sent may stay unacknowledged: 15 minutes
// otherwise (tcp(7), TCP_USER_TIMEOUT).
func giveUp(network, _ string, c syscall.RawConn) error {
	if !strings.HasPrefix(network, "tcp") {
		return nil
	}
	var err error
	if cerr := c.Control(func(fd uintptr) {
		err = unix.SetsockoptInt(int(fd), unix.IPPROTO_TCP, unix.TCP_USER_TIMEOUT, int(silence.Milliseconds()))
	}); cerr != nil {
		return cerr
	}
	return err
}

// shuffle puts the servers in an order of this client's own.
func shuffle(list []server) {
	for i := len(list) - 1; i > 0; i-- {
		id := uuid.New() // of crypto/rand; the bias of a byte does not matter
		j := int(id[0]) % (i + 1)
		list[i], list[j] = list[j], list[i]
	}
}

// Apart returns a client for each server alone. They share the connections of
// this one, which outlives them; they need no Close.
func (c *Client) Apart() []*Client {
	out := make([]*Client, len(c.servers))
	for i, s := range c.servers {
		out[i] = &Client{servers: []server{s}, patience: c.patience, close: func() {}, version: c.version}
	}
	return out
}

// Endpoint is where the server is that is asked now.
func (c *Client) Endpoint() string { return c.servers[c.now()].endpoint }

func (c *Client) now() int { return int(c.current.Load()) % len(c.servers) }

// leave goes on to the next server, unless another call has done so.
func (c *Client) leave(at int) {
	c.current.CompareAndSwap(uint32(at), uint32((at+1)%len(c.servers)))
}

// each makes the call at one server after the other until one answers, and has
// use take in a good answer and close its body: its error counts as the server's.
func (c *Client) each(ctx context.Context, k call, use func(*server, *http.Response) error) error {
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
func (c *Client) once(ctx context.Context, s *server, k call, use func(*server, *http.Response) error) error {
	resp, err := c.attempt(ctx, s, k) //nolint:bodyclose // use closes it
	if err == nil {
		err = use(s, resp)
	}
	return err
}

// do makes the call and returns its answer when it is a good one, and who gave it;
// the caller closes the body.
func (c *Client) do(ctx context.Context, k call) (resp *http.Response, from *server, err error) {
	err = c.each(ctx, k, func(s *server, r *http.Response) error {
		resp, from = r, s
		return nil
	})
	return resp, from, err
}

// twice reports whether doing it twice is doing it once.
func (k call) twice() bool { return k.again || k.method == http.MethodGet }

// unsent reports whether a request surely was not carried out: there was no
// connection, or one side refused who the other is.
func unsent(err error) bool {
	var op *net.OpError
	var alert tls.AlertError
	return errors.As(err, &op) && op.Op == "dial" || errors.As(err, &alert) || errors.Is(err, dataset.ErrForbidden)
}

// brokenOffError is the cause of a request whose connection broke: one that was idle may have been closed
// by a server that is there.
type brokenOffError struct{ error }

func (e brokenOffError) Unwrap() error { return e.error }

func brokeOff(err error) bool {
	var broken brokenOffError
	return errors.As(err, &broken) && !errors.Is(err, errSilent) && !unsent(err)
}

// errSilent is the cause of a request that one of several servers did not answer.
var errSilent = errors.New("no answer in time")

// attempt makes the call at one server.
func (c *Client) attempt(ctx context.Context, s *server, k call) (*http.Response, error) {
	actx, stop, end := ctx, func() bool { return true }, context.CancelCauseFunc(nil)
	if c.patience > 0 && k.twice() {
		actx, end = context.WithCancelCause(ctx)
		stop = time.AfterFunc(c.patience+k.patience, func() { end(errSilent) }).Stop
	}
	req, err := k.request(actx, s.base)
	if err != nil {
		return nil, err
	}
	if name := productName(c.version); name != "" {
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

// endingBody ends the context of its request when it is closed.
type endingBody struct {
	io.ReadCloser
	end context.CancelCauseFunc
}

func (b *endingBody) Close() error {
	defer b.end(nil)
	return b.ReadCloser.Close()
}

// failed is the error of a request that got no answer, or half of one.
func (s *server) failed(ctx context.Context, k call, err error) error {
	if ctx.Err() != nil {
		return fmt.Errorf("%s %s: %w", k.method, k.path, ctx.Err())
	}
	hint := "is `drover serve`, or this host's agent, running? set --api or DROVER_API"
	switch {
	case errors.Is(err, fs.ErrPermission):
		hint = "want root, or a member of the group drover"
	case errors.Is(err, dataset.ErrForbidden):
		// it says what would do
		return dataset.Errorf(dataset.ErrUnavailable, "cannot reach drover at %s: %w", s.endpoint, err)
	case strings.HasPrefix(s.base, "https:"):
		hint = "is `drover control` running there, and of this cluster?"
	case s.besideControl() != "":
		hint = "on this host control alone answers: set --api or DROVER_API to " + s.besideControl()
	}
	return dataset.Errorf(dataset.ErrUnavailable, "cannot reach drover at %s: %w (%s)", s.endpoint, err, hint)
}

// besideControl is the address of a control replica of this host, where there is one in the
// folder of a socket that did not answer.
func (s *server) besideControl() string {
	path, local := strings.CutPrefix(s.endpoint, "unix://")
	beside := filepath.Join(filepath.Dir(path), "control.sock")
	if _, err := os.Stat(beside); !local || beside == path || err != nil {
		return ""
	}
	return "unix://" + beside
}

// allAway is why none of several servers answered: what one that was reached says
// comes first.
func allAway(list []error) error {
	lines := make([]string, 0, len(list))
	for _, err := range list {
		line := dataset.OneLine(err)
		if strings.HasPrefix(line, "cannot reach drover at ") {
			lines = append(lines, strings.TrimPrefix(line, "cannot reach drover at "))
			continue
		}
		return err
	}
	return dataset.Errorf(dataset.ErrUnavailable, "cannot reach drover at any of %d addresses: %s", len(list),
		strings.Join(lines, "; "))
}
