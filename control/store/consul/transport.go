package consul

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strings"
	"sync/atomic"
	"time"

	"github.com/hashicorp/consul/api"

	"github.com/droverhq/drover/dataset"
	"github.com/droverhq/drover/internal/clock"
)

// The maximum number of connections to one address. Consul accepts 200 from one client address
// (http_max_conns_per_client). This package uses fewer, so that other programs of this host can connect too. Renewals
// have separate connections: a node that is not renewed in time counts as lost, so renewals must not wait for other
// requests.
const (
	maxConns   = 48
	renewConns = 48
)

// transport is the HTTP transport of Consul's API client. It sends each request to one of several addresses, and adds
// the current token. It begins with the address that answered last. If that address has been silent since, it begins
// with the next one.
type transport struct {
	hosts          []*url.URL
	base           *http.Transport
	creds          *credentials
	clock          clock.Clock
	leaderTime     time.Duration // how long a request waits for Consul to elect a leader
	preferred      *atomic.Int32 // index in hosts of the address to try first
	sent           *atomic.Uint64
	inflight       *inflight
	endsWithCaller bool // a request is cancelled when the context of its caller ends
	repeatable     bool // all requests are idempotent, also those that are not a GET
}

// newTransport checks the options and returns a transport. A response must begin within answer. All requests are
// cancelled when life ends.
func newTransport(life context.Context, opts Options, answer time.Duration) (*transport, error) {
	if len(opts.Addresses) == 0 {
		return nil, dataset.Errorf(dataset.ErrInvalid,
			"consul: no address: want one or more such as https://consul1:8501")
	}
	f := &transport{
		preferred: new(atomic.Int32), sent: new(atomic.Uint64), clock: opts.Clock, leaderTime: opts.LeaderTime,
		inflight: &inflight{ctx: life, maxTime: opts.CallTime, silence: silence{clock: opts.Clock}},
	}
	secure := 0
	for _, a := range opts.Addresses {
		u, err := CheckAddress(a)
		if err != nil {
			return nil, err
		}
		if u.Scheme == "https" {
			secure++
		}
		f.hosts = append(f.hosts, u)
	}
	if secure == 0 && (opts.CAFile != "" || opts.CertFile != "" || opts.KeyFile != "" || opts.ServerName != "") {
		return nil, dataset.Errorf(dataset.ErrInvalid, "consul: certificates are given, but no address is https")
	}
	var err error
	if f.creds, err = newCredentials(opts, f.hosts); err != nil {
		return nil, err
	}
	answer = min(answer, opts.CallTime/2) // so that time remains for another address
	tls, err := newTLS(opts)
	if err != nil {
		return nil, err
	}
	f.base = &http.Transport{
		DialContext:         (&net.Dialer{Timeout: dialTime, KeepAlive: 15 * time.Second}).DialContext,
		TLSClientConfig:     tls,
		TLSHandshakeTimeout: dialTime, ResponseHeaderTimeout: answer,
		MaxConnsPerHost: maxConns, MaxIdleConnsPerHost: maxConns, IdleConnTimeout: 90 * time.Second,
		DisableCompression: true, // Consul is near, and compression would use a whole core
	}
	return f, nil
}

// withPool returns a copy of the transport with a separate pool of connections.
func (f *transport) withPool(conns int) *transport {
	out := *f
	out.base = f.base.Clone()
	out.base.MaxConnsPerHost, out.base.MaxIdleConnsPerHost = conns, conns
	return &out
}

// forLongAnswers returns a copy of the transport for requests whose answer may take long. Such a request is cancelled
// when the context of its caller ends.
func (f *transport) forLongAnswers(answer time.Duration) *transport {
	out := f.withPool(maxConns)
	out.base.ResponseHeaderTimeout = answer
	out.sent, out.endsWithCaller = new(atomic.Uint64), true
	return out
}

// idempotent returns a copy of the transport for requests that can be repeated although they are not a GET.
func (f *transport) idempotent() *transport {
	out := *f
	out.repeatable = true
	return &out
}

// isIdempotent reports whether a request can be repeated even if Consul has executed it.
func (f *transport) isIdempotent(req *http.Request) bool {
	return f.repeatable || req.Method == http.MethodGet
}

// client returns the API's client on this transport. The address and token are placeholders, so that neither is taken
// from environment variables CONSUL_HTTP_….
func (f *transport) client() (*api.Client, error) {
	return api.NewClient(&api.Config{
		Address: "consul", Scheme: "http", Token: "-",
		HttpClient: &http.Client{Transport: f}, Transport: f.base,
	})
}

// close waits until no request is in progress. The caller must have ended the context of the store before.
func (f *transport) close() {
	f.inflight.wait()
	f.base.CloseIdleConnections()
}

// RoundTrip implements http.RoundTripper. It returns an error for a response that is not a regular answer of Consul
// (see isConsulAnswer), so that the caller does not mistake it for an answer. It repeats a request that is not
// idempotent only if the first attempt cannot have changed anything.
//
// While Consul elects a leader, RoundTrip repeats a request for up to Options.LeaderTime. This is necessary because a
// server notices the death of a leader only after some seconds. Until then it refuses requests at once. After that,
// it holds requests until there is a new leader.
func (f *transport) RoundTrip(req *http.Request) (*http.Response, error) {
	var body []byte
	if req.Body != nil {
		var err error
		if body, err = io.ReadAll(req.Body); err != nil {
			return nil, err
		}
		req.Body.Close()
	}
	began := f.clock.Steady()
	for n, wait := 0, minRetry; ; n, wait = n+1, min(2*wait, maxRetry) {
		res, err := f.tryEach(req, body)
		if err == nil {
			return res, nil
		}
		took := f.clock.Steady() - began
		cut := f.isIdempotent(req) && connectionEnded(err) && req.Context().Err() == nil && took < silentTime
		if cut && n == 0 {
			continue // try another connection
		}
		if !cut && (!isElecting(err) || !f.isIdempotent(req) && !hadNoEffect(err) ||
			max(took, f.inflight.silence.duration()) > f.leaderTime) {
			return nil, err
		}
		select {
		case <-f.clock.After(wait):
		case <-req.Context().Done():
			return nil, err
		}
	}
}

// tryEach tries each address once, beginning with the preferred one.
func (f *transport) tryEach(req *http.Request, body []byte) (*http.Response, error) {
	start := int(f.preferred.Load())
	var failed error
	for i := range f.hosts {
		n := (start + i) % len(f.hosts)
		began := f.clock.Steady()
		res, err := f.send(req, f.hosts[n], body)
		if err == nil {
			f.preferred.CompareAndSwap(int32(start), int32(n))
			return res, nil
		}
		over := req.Context().Err() != nil
		// Prefer the error of a server that was reached. It is more useful than the error that a server was not
		// reached or that the time ran out.
		if failed == nil || !neverReceived(err) && !over {
			failed = err
		}
		// A server that was silent for silentTime is not the first choice of the next request. This applies even if
		// the caller gave up first, because some callers never wait longer than silentTime.
		silent := over && f.clock.Steady()-began >= silentTime
		again := !over && !isFinal(err) && (f.isIdempotent(req) || hadNoEffect(err))
		if silent || !again && !over && !isFinal(err) {
			f.preferred.CompareAndSwap(int32(start), int32((n+1)%len(f.hosts)))
		}
		if !again {
			break
		}
	}
	return nil, failed
}

// send sends a request to one address. If Consul does not accept the token and the file has a new one, it sends the
// request once more.
func (f *transport) send(req *http.Request, host *url.URL, body []byte) (*http.Response, error) {
	res, token, err := f.sendAs(req, host, body)
	if err != nil && isTokenRefused(err) && f.creds.renewed(token) {
		res, _, err = f.sendAs(req, host, body)
	}
	return res, err
}

func (f *transport) sendAs(req *http.Request, host *url.URL, body []byte) (*http.Response, string, error) {
	out := req.Clone(req.Context())
	out.URL.Scheme, out.URL.Host, out.Host = host.Scheme, host.Host, ""
	q := out.URL.Query()
	q.Del("ns") // the API's client sets them from the environment variables CONSUL_NAMESPACE and CONSUL_PARTITION
	q.Del("partition")
	out.URL.RawQuery = q.Encode()
	out.Header.Del("X-Consul-Token")
	token := f.creds.current()
	if token != "" {
		out.Header.Set("X-Consul-Token", token)
	}
	out.Body, out.ContentLength = http.NoBody, int64(len(body))
	if len(body) > 0 {
		out.GetBody = func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(body)), nil }
		out.Body, _ = out.GetBody()
	}
	f.sent.Add(1)
	var res *http.Response
	var err error
	if f.endsWithCaller {
		res, err = f.base.RoundTrip(out)
	} else {
		// The longer Consul has been silent, the shorter the wait: a server without a leader, or without a network,
		// does not answer for a long time.
		patience := max(silentTime, f.leaderTime-f.inflight.silence.duration())
		res, err = f.inflight.send(f.base, out, f.clock.After(patience))
	}
	if err != nil {
		return nil, token, &reachError{
			host:       host.String(),
			err:        err,
			leaderless: req.Context().Err() == nil && timedOut(err) && f.hasNoLeader(host),
		}
	}
	if isConsulAnswer(res) {
		return res, token, nil
	}
	defer res.Body.Close()
	text, err := io.ReadAll(io.LimitReader(res.Body, maxErrorText))
	if err != nil {
		return nil, token, &reachError{host: host.String(), err: err}
	}
	return nil, token, &statusError{host.String(), res.StatusCode, string(text)}
}

const maxErrorText = 4 << 10

// isConsulAnswer reports whether a response is a regular answer of Consul, and not an error of Consul or of another
// program that listens there: a 404 of a proxy must not look like an absent key.
func isConsulAnswer(res *http.Response) bool {
	switch {
	case res.Request.Method == http.MethodGet &&
		(res.StatusCode == http.StatusOK || res.StatusCode == http.StatusNotFound):
		return res.Header.Get("X-Consul-Index") != ""
	case res.StatusCode == http.StatusConflict:
		return true // a transaction was rolled back: the answer has the reason
	}
	return res.StatusCode == http.StatusOK
}

// hasNoLeader asks a server that did not answer whether it knows a leader. It returns true if the server answers that
// it knows none.
//
// Such a server holds a request until a leader is elected or rpc_hold_timeout has passed. The server checks these
// conditions only after pauses of growing length. So it sometimes holds a request for half a minute (getWaitTime in
// agent/consul/rpc.go).
func (f *transport) hasNoLeader(host *url.URL) bool {
	ctx, cancel := context.WithTimeout(f.inflight.ctx, silentTime)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, host.JoinPath("v1/status/leader").String(), nil)
	if err != nil {
		return false
	}
	res, err := f.base.RoundTrip(req)
	if err != nil {
		return false
	}
	defer res.Body.Close()
	text, err := io.ReadAll(io.LimitReader(res.Body, maxErrorText))
	return err == nil && strings.TrimSpace(string(text)) == `""`
}

func timedOut(err error) bool {
	var slow net.Error
	return errors.As(err, &slow) && slow.Timeout()
}

// reachError is the error of a request without a complete answer.
type reachError struct {
	host       string
	err        error
	leaderless bool // the server said that it has no leader
}

func (e *reachError) Error() string { return fmt.Sprintf("%s: %v", e.host, e.err) }
func (e *reachError) Unwrap() error { return e.err }

// statusError is an answer with an error status.
type statusError struct {
	host string
	code int
	body string
}

func (e *statusError) Error() string {
	return fmt.Sprintf("%s: status %d: %s", e.host, e.code, e.line())
}

// neverReceived reports whether a request cannot have been received: there was no connection, or no trusted one.
func neverReceived(err error) bool {
	var reach *reachError
	if !errors.As(err, &reach) {
		return false
	}
	var op *net.OpError
	return errors.As(err, &op) && op.Op == "dial" || isUntrusted(err) || errors.Is(err, errHandshake)
}

// hadNoEffect reports whether a request cannot have changed anything: it was not received, or Consul answered that it
// had no leader ("always safe to retry since no state could have been changed": canRetry in agent/consul/rpc.go).
func hadNoEffect(err error) bool {
	var status *statusError
	if errors.As(err, &status) {
		return strings.Contains(status.body, "No cluster leader") ||
			strings.Contains(status.body, "rpc error getting client")
	}
	return neverReceived(err)
}

// connectionEnded reports whether a connection may have ended during a request: the server had closed it because it was
// idle, or the end of another request closed it. It also returns true if a server did not answer in time.
func connectionEnded(err error) bool {
	var reach *reachError
	return errors.As(err, &reach) && !neverReceived(err)
}

// isElecting reports whether a server answered that it cannot reach a leader. Such an error may end without
// intervention, when a leader is elected.
func isElecting(err error) bool {
	var status *statusError
	return errors.As(err, &status) && status.code == http.StatusInternalServerError &&
		(strings.Contains(status.body, "No cluster leader") || strings.Contains(status.body, "rpc error") ||
			strings.Contains(status.body, "leadership"))
}

// isFinal reports whether every other address would answer the same.
func isFinal(err error) bool {
	var status *statusError
	return errors.As(err, &status) && status.code >= 400 && status.code < 500 &&
		status.code != http.StatusTooManyRequests && status.code != http.StatusNotFound
}

func isTokenRefused(err error) bool {
	var status *statusError
	return errors.As(err, &status) && status.code == http.StatusForbidden
}

// CheckAddress parses an address of Consul. It fails with dataset.ErrInvalid, which names the mistake.
func CheckAddress(address string) (*url.URL, error) {
	u, err := url.Parse(address)
	if err != nil || u.Scheme != "http" && u.Scheme != "https" || u.Hostname() == "" || u.User != nil ||
		u.Path != "" || u.RawQuery != "" || u.Fragment != "" {
		return nil, dataset.Errorf(dataset.ErrInvalid,
			"bad address of consul: want such as https://consul1:8501 or http://127.0.0.1:8500, without a "+
				"path or a password")
	}
	if u.Port() == "" {
		return nil, dataset.Errorf(dataset.ErrInvalid,
			"bad address of consul %s: it has no port (8501 is usual for https, 8500 for http)", address)
	}
	return u, nil
}
