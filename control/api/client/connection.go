// Package client sends requests to a server of the API: over HTTP, over a unix socket, or in this process. Agents use
// it to reach control on another host: cmd/drover/internal/daemon makes the client of an agent, and agent/controlsync
// the one with which a host joins. The command line (cmd/drover/internal/cli) uses it to reach control or an agent. In
// one process with control, an agent calls package control directly. Only tests connect the two with package
// control/controltest/loopback.
//
// The only state of a Client is its connections and the index of the server that it asks first. Both are safe for
// concurrent use. A method makes a call of an endpoint (call.go). Retries, timeouts and the choice of a server are in
// connection.go.
package client

import (
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"mime"
	"net"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/google/uuid"
	"golang.org/x/sys/unix"

	"github.com/droverhq/drover/control/api"
	"github.com/droverhq/drover/control/api/wire"
	"github.com/droverhq/drover/dataset"
	"github.com/droverhq/drover/internal/clock"
	"github.com/droverhq/drover/internal/requestid"
)

// Client sends requests to a server of this API, or to one of several servers of the same cluster. The server has the
// same API version, and may be in this process. A Client is safe for concurrent use.
//
// If there are several servers, the client uses one of them as long as it answers. If that server cannot be reached,
// does not answer in time or reports that it is unavailable, the client sends the request to the next one and keeps
// using it. It does not repeat a request that is not idempotent if the first server may have carried it out. Each
// client puts the servers in a random order, so that the clients of a lost server spread over the others.
//
// An error that the server reports is returned with the same kind and text; only the server can report ErrNotFound.
// If the server cannot be reached, or the connection breaks, the error is ErrUnavailable. If the caller's context has
// ended, the error wraps that of the context instead, and has no kind.
type Client struct {
	Users
	Nodes
	Host
	Members
	conn *connection
}

// newClient returns a client that sends its calls over conn.
func newClient(conn *connection) *Client {
	return &Client{Users: Users{conn}, Nodes: Nodes{conn}, Host: Host{conn}, Members: Members{conn}, conn: conn}
}

// SetVersion sets the version of the program, which the client sends with each request and control compares with its
// own. It must not be called once the client is in use.
func (c *Client) SetVersion(version string) { c.conn.version = version }

// OnKnownAt sets a function that is called for each answer that an agent gave without control, with the time at which
// the agent last heard from control. It must not be called once the client is in use.
func (c *Client) OnKnownAt(f func(time.Time)) { c.conn.knownAt = f }

// SetObserver has f called after each call, with the method and path of its route, its error and its duration. It must
// not be called once the client is in use.
func (c *Client) SetObserver(f func(route string, err error, took time.Duration)) { c.conn.observe = f }

// Endpoint returns the address of the server that the client asks first at present.
func (c *Client) Endpoint() string { return c.conn.servers[c.conn.currentIndex()].endpoint }

// PerServer returns one client for each server. They share the connections of c and need no Close. They must not be
// used after c is closed. They do not call the function that was set with OnKnownAt.
func (c *Client) PerServer() []*Client {
	out := make([]*Client, len(c.conn.servers))
	for i, s := range c.conn.servers {
		out[i] = newClient(&connection{
			servers:  []remote{s},
			patience: c.conn.patience,
			close:    func() {},
			version:  c.conn.version,
			observe:  c.conn.observe,
		})
	}
	return out
}

// Close closes idle connections. For a loopback client it waits until the running handlers return. The client must
// not be used afterwards.
func (c *Client) Close() { c.conn.close() }

var (
	_ api.Service = (*Client)(nil)
	_ api.Local   = (*Client)(nil)
	_ api.Backup  = (*Client)(nil)
	_ api.Members = (*Client)(nil)
)

// Over returns a client that sends its requests through transport, in this process. Close calls end.
func Over(transport http.RoundTripper, end func()) *Client {
	return newClient(&connection{servers: []remote{{"http://drover", "this process", transport}}, close: end})
}

// New returns a client for the servers at unix:///PATH, http://HOST[:PORT] or https://HOST[:PORT], separated by
// commas. It does not connect. It fails with ErrInvalid for other addresses.
func New(endpoints string) (*Client, error) { return NewTLS(endpoints, nil) }

// NewTLS is New with the TLS configuration for https addresses.
func NewTLS(endpoints string, t *tls.Config) (*Client, error) {
	conn := &connection{}
	var transports []*http.Transport
	for endpoint := range strings.SplitSeq(endpoints, ",") {
		s, transport, err := dial(strings.TrimSpace(endpoint), t)
		if err != nil {
			return nil, err
		}
		conn.servers, transports = append(conn.servers, s), append(transports, transport)
	}
	if len(conn.servers) > 1 {
		conn.patience = answerTime
		for i := len(conn.servers) - 1; i > 0; i-- {
			id := uuid.New() // from crypto/rand; the bias of a single byte does not matter
			j := int(id[0]) % (i + 1)
			conn.servers[i], conn.servers[j] = conn.servers[j], conn.servers[i]
		}
	}
	conn.close = func() {
		for _, t := range transports {
			t.CloseIdleConnections()
		}
	}
	return newClient(conn), nil
}

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
		return nil, from.failed(ctx, k, fmt.Errorf("the archive ended early and is incomplete: %w", err))
	}
	if ctx.Err() != nil {
		return nil, from.failed(ctx, k, nil)
	}
	return resp.Trailer, wire.StreamError(resp.Trailer)
}

const (
	connectTime = 4 * time.Second
	// handshakeTime is how long a reachable server has for the TLS handshake. When a replica fails, all agents
	// connect to another one at once and keep it busy for a while. The more agents give up and try again, the longer
	// that takes. If the server becomes unreachable meanwhile, the limit silence detects it.
	handshakeTime = 10 * time.Second
	// answerTime is how long one of several servers has to answer. It is longer than the time that a server waits for
	// a leader of its store, so that the client does not switch servers because of an election.
	answerTime = 12 * time.Second
	// silence is the time after which a connection counts as dead if the peer acknowledges nothing. It is needed
	// because a network that is cut reports no error. It is so short that the client notices two unreachable servers
	// within ten seconds, because a user may be waiting for Docker.
	silence = 4 * time.Second
)

func dial(endpoint string, config *tls.Config) (remote, *http.Transport, error) {
	t := &http.Transport{
		MaxIdleConns:          64,
		MaxIdleConnsPerHost:   64,
		IdleConnTimeout:       90 * time.Second,
		ExpectContinueTimeout: 5 * time.Second,
		TLSHandshakeTimeout:   handshakeTime,
		DisableCompression:    true,
		TLSClientConfig:       config,
		DialContext: (&net.Dialer{
			Timeout:         connectTime,
			KeepAliveConfig: net.KeepAliveConfig{Enable: true, Idle: silence / 2, Interval: silence / 4, Count: 2},
			Control:         limitUnacknowledged,
		}).DialContext,
	}
	if path, ok := strings.CutPrefix(endpoint, "unix://"); ok {
		if !strings.HasPrefix(path, "/") {
			return remote{}, nil, badEndpoint(endpoint)
		}
		t.DialContext = func(ctx context.Context, _, _ string) (net.Conn, error) {
			return new(net.Dialer).DialContext(ctx, "unix", path)
		}
		return remote{"http://drover", endpoint, t}, t, nil
	}
	u, err := url.Parse(endpoint)
	if err != nil || u.Scheme != "http" && u.Scheme != "https" || u.Host == "" || u.RawQuery != "" || u.User != nil {
		return remote{}, nil, badEndpoint(endpoint)
	}
	return remote{u.Scheme + "://" + u.Host + strings.TrimSuffix(u.EscapedPath(), "/"), endpoint, t}, t, nil
}

func badEndpoint(endpoint string) error {
	hint := ""
	u, err := url.Parse(endpoint)
	_, _, notPair := net.SplitHostPort(endpoint)
	switch {
	case strings.HasPrefix(endpoint, "/"):
		hint = "; for this socket: unix://" + endpoint
	case err == nil && u.Scheme == "tcp" && u.Host != "":
		hint = "; for this host: https://" + u.Host
	case notPair == nil:
		hint = "; for this host: https://" + endpoint
	}
	return dataset.Errorf(dataset.ErrInvalid,
		"bad API address %q: want unix:///PATH, http://HOST:PORT or https://HOST:PORT%s", dataset.Clip(endpoint),
		dataset.Clip(hint))
}

// limitUnacknowledged limits how long sent data may stay unacknowledged. The default is 15 minutes (tcp(7),
// TCP_USER_TIMEOUT).
func limitUnacknowledged(network, _ string, c syscall.RawConn) error {
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

// maxProblem is how much of a refusal the client reads.
const maxProblem = 64 << 10

// isProblem reports whether an answer has a problem as its body.
func isProblem(resp *http.Response) bool {
	typ, _, _ := mime.ParseMediaType(resp.Header.Get("Content-Type"))
	return typ == wire.ProblemType
}

// refused returns the error for an answer with an error status or a problem.
func (s *remote) refused(resp *http.Response) error {
	text, err := io.ReadAll(io.LimitReader(resp.Body, maxProblem))
	var p wire.Problem
	if err == nil && isProblem(resp) && json.Unmarshal(text, &p) == nil && p.Code != "" {
		return p.Err()
	}
	kind := dataset.ErrInternal
	if resp.StatusCode >= http.StatusInternalServerError {
		kind = dataset.ErrUnavailable // a proxy in front of a server that is unreachable
	}
	return dataset.Errorf(kind, "%s responded with %s, unlike drover (is it drover, or a proxy? set --api or "+
		"DROVER_API)", s.endpoint, resp.Status)
}

// neverSent reports whether the server cannot have carried out the request: there was no connection, or one side
// refused the certificate of the other.
func neverSent(err error) bool {
	var op *net.OpError
	var alert tls.AlertError
	return errors.As(err, &op) && op.Op == "dial" || errors.As(err, &alert) || errors.Is(err, dataset.ErrForbidden)
}

// brokenOffError is the cause of a failed request whose connection broke. A server that is running may have
// closed the connection because it was idle.
type brokenOffError struct{ error }

func (e brokenOffError) Unwrap() error { return e.error }

func connectionBroke(err error) bool {
	var broken brokenOffError
	return errors.As(err, &broken) && !errors.Is(err, errSilent) && !neverSent(err)
}

// errSilent is the cause of a failed request that one of several servers did not answer in time.
var errSilent = errors.New("no answer in time")

// failed returns the error for a request without an answer, or with an incomplete one.
func (s *remote) failed(ctx context.Context, k call, err error) error {
	if ctx.Err() != nil {
		return fmt.Errorf("%s %s: %w", k.method, k.path, ctx.Err())
	}
	hint := "see systemctl status 'drover*' or run drover serve" + s.where()
	switch {
	case errors.Is(err, fs.ErrPermission):
		hint = "you must be root or a member of the group drover"
	case errors.Is(err, dataset.ErrForbidden):
		// The error already says what to do, so add no hint.
		return dataset.Errorf(dataset.ErrUnavailable, "cannot reach drover at %s: %w", s.endpoint, err)
	case strings.HasPrefix(s.base, "https:"):
		hint = "see systemctl status drover-control on that host"
	case s.controlSocket() != "":
		hint = "this host runs only control: --api " + s.controlSocket()
	}
	return dataset.Errorf(dataset.ErrUnavailable, "cannot reach drover at %s: %w (%s)", s.endpoint, shorten(err), hint)
}

// shorten returns the error of a failed connection without the address, which the message has already.
func shorten(err error) error {
	var op *net.OpError
	if errors.As(err, &op) && op.Op == "dial" && op.Err != nil {
		return dialError{err, strings.TrimPrefix(op.Err.Error(), "connect: ")}
	}
	return err
}

// dialError is the error of a failed connection with a shorter text.
type dialError struct {
	error
	text string
}

func (e dialError) Error() string { return e.text }

func (e dialError) Unwrap() error { return e.error }

// defaultSocket is where an agent or drover serve listens, unless it was started with another folder.
const defaultSocket = "/run/drover/drover.sock"

// where says which other address may be right for a server that is unreachable.
func (s *remote) where() string {
	path, local := strings.CutPrefix(s.endpoint, "unix://")
	_, err := os.Stat(defaultSocket)
	switch {
	case !local:
		return " on that host, or set --api"
	case path != defaultSocket && err == nil:
		return ", or omit --api and DROVER_API"
	}
	return ", or set --api"
}

// controlSocket returns the address of the control replica of this host if its socket is in the same folder as
// the socket that did not answer. Otherwise it returns "".
func (s *remote) controlSocket() string {
	path, local := strings.CutPrefix(s.endpoint, "unix://")
	beside := filepath.Join(filepath.Dir(path), "control.sock")
	if _, err := os.Stat(beside); !local || beside == path || err != nil {
		return ""
	}
	return "unix://" + beside
}

// noneAnsweredError returns the error for a request that none of several servers answered. An error that a
// reachable server reported comes before the others.
func noneAnsweredError(list []error) error {
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
