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

// The maximum number of connections to one address. Consul takes 200 from one
// client address (http_max_conns_per_client); the rest is for others on this host.
// Renewals have connections of their own: a node that is not renewed in time counts as lost, even if all
// other requests wait.
const (
	maxConns   = 48
	renewConns = 48
)

// fleet sends requests to the first of some addresses that answers, with the
// token of now. It is the transport of the API's client.
type fleet struct {
	hosts  []*url.URL
	base   *http.Transport
	creds  *credentials
	clock  clock.Clock
	leader time.Duration // how long one is waited for
	first  *atomic.Int32 // of hosts: the one that answered last
	sent   *atomic.Uint64
	flying *flights
	brief  bool // requests end with their caller
	again  bool // the request can be sent again: it changes nothing, or nothing more
}

// newFleet checks the options that say where Consul is. An answer that does not
// begin within answer is none. Requests end with life.
func newFleet(life context.Context, opts Options, answer time.Duration) (*fleet, error) {
	if len(opts.Addresses) == 0 {
		return nil, dataset.Errorf(dataset.ErrInvalid,
			"consul: no address: want one or more such as https://consul1:8501")
	}
	f := &fleet{
		first: new(atomic.Int32), sent: new(atomic.Uint64), clock: opts.Clock, leader: opts.LeaderTime,
		flying: &flights{life: life, most: opts.CallTime, quiet: quiet{clock: opts.Clock}},
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
	answer = min(answer, opts.CallTime/2) // so that there is time for another address
	tls, err := newTLS(opts)
	if err != nil {
		return nil, err
	}
	f.base = &http.Transport{
		DialContext:         (&net.Dialer{Timeout: dialTime, KeepAlive: 15 * time.Second}).DialContext,
		TLSClientConfig:     tls,
		TLSHandshakeTimeout: dialTime, ResponseHeaderTimeout: answer,
		MaxConnsPerHost: maxConns, MaxIdleConnsPerHost: maxConns, IdleConnTimeout: 90 * time.Second,
		DisableCompression: true, // the network is near, and it would cost a core
	}
	return f, nil
}

// apart returns the same fleet with so many connections of its own.
func (f *fleet) apart(conns int) *fleet {
	out := *f
	out.base = f.base.Clone()
	out.base.MaxConnsPerHost, out.base.MaxIdleConnsPerHost = conns, conns
	return &out
}

// patient returns the same fleet for requests whose answer may take its time, and
// that end with their caller.
func (f *fleet) patient(answer time.Duration) *fleet {
	out := f.apart(maxConns)
	out.base.ResponseHeaderTimeout = answer
	out.sent, out.brief = new(atomic.Uint64), true
	return out
}

// repeating returns the same fleet for requests that can be sent again although
// they are no GET.
func (f *fleet) repeating() *fleet {
	out := *f
	out.again = true
	return &out
}

// repeats reports whether a request can be sent again although it was received.
func (f *fleet) repeats(req *http.Request) bool { return f.again || req.Method == http.MethodGet }

// client returns the API's client on this fleet. The address and token given
// here are stand-ins, so that neither is taken from CONSUL_HTTP_ variables.
func (f *fleet) client() (*api.Client, error) {
	return api.NewClient(&api.Config{
		Address: "consul", Scheme: "http", Token: "-",
		HttpClient: &http.Client{Transport: f}, Transport: f.base,
	})
}

// close returns when no request is under way; the store's life has ended.
func (f *fleet) close() {
	f.flying.wait()
	f.base.CloseIdleConnections()
}

// RoundTrip sends a request. Statuses that mean that nothing was answered are
// errors here, so that callers see which. A request that changes something is
// sent again only when the first cannot have changed anything.
//
// A server goes on for seconds with a leader that has died, and then refuses at
// once what it would hold later, so while a leader may be on its way a request
// is sent again for Options.LeaderTime.
func (f *fleet) RoundTrip(req *http.Request) (*http.Response, error) {
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
		res, err := f.round(req, body)
		if err == nil {
			return res, nil
		}
		took := f.clock.Steady() - began
		cut := f.repeats(req) && broken(err) && req.Context().Err() == nil && took < silentTime
		if cut && n == 0 {
			continue // with another connection
		}
		if !cut && (!electing(err) || !f.repeats(req) && !unapplied(err) ||
			max(took, f.flying.quiet.lasts()) > f.leader) {
			return nil, err
		}
		select {
		case <-f.clock.After(wait):
		case <-req.Context().Done():
			return nil, err
		}
	}
}

// round tries the addresses, each once, from the one that answered last.
func (f *fleet) round(req *http.Request, body []byte) (*http.Response, error) {
	start := int(f.first.Load())
	var failed error
	for i := range f.hosts {
		n := (start + i) % len(f.hosts)
		began := f.clock.Steady()
		res, err := f.send(req, f.hosts[n], body)
		if err == nil {
			f.first.CompareAndSwap(int32(start), int32(n))
			return res, nil
		}
		over := req.Context().Err() != nil
		// The answer of a server that was reached is more useful than the fact that another one was not
		// reached, or that there was no time left for it.
		if failed == nil || !unsent(err) && !over {
			failed = err
		}
		// The next request does not begin with a server that was silent for long, even if the caller gave up:
		// that caller may never wait longer.
		silent := over && f.clock.Steady()-began >= silentTime
		again := !over && !final(err) && (f.repeats(req) || unapplied(err))
		if silent || !again && !over && !final(err) {
			f.first.CompareAndSwap(int32(start), int32((n+1)%len(f.hosts)))
		}
		if !again {
			break
		}
	}
	return nil, failed
}

// send sends a request to one address; again, once, when Consul does not know
// the token and there is a new one.
func (f *fleet) send(req *http.Request, host *url.URL, body []byte) (*http.Response, error) {
	res, token, err := f.sendAs(req, host, body)
	if err != nil && refusedToken(err) && f.creds.renewed(token) {
		res, _, err = f.sendAs(req, host, body)
	}
	return res, err
}

func (f *fleet) sendAs(req *http.Request, host *url.URL, body []byte) (*http.Response, string, error) {
	out := req.Clone(req.Context())
	out.URL.Scheme, out.URL.Host, out.Host = host.Scheme, host.Host, ""
	q := out.URL.Query()
	q.Del("ns") // from CONSUL_NAMESPACE and CONSUL_PARTITION
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
	if f.brief {
		res, err = f.base.RoundTrip(out)
	} else {
		res, err = f.flying.carry(f.base, out, f.clock.After(f.patience()))
	}
	if err != nil {
		return nil, token, &reachError{
			host:       host.String(),
			err:        err,
			leaderless: req.Context().Err() == nil && timedOut(err) && f.leaderless(host),
		}
	}
	if answered(res) {
		return res, token, nil
	}
	defer res.Body.Close()
	text, err := io.ReadAll(io.LimitReader(res.Body, maxErrorText))
	if err != nil {
		return nil, token, &reachError{host: host.String(), err: err}
	}
	return nil, token, &statusError{host.String(), res.StatusCode, string(text)}
}

// patience is how long one answer is waited for. A server without a leader, or one that is
// cut off, is silent for long: a caller that asks after a while of that gets an answer soon.
func (f *fleet) patience() time.Duration { return max(silentTime, f.leader-f.flying.quiet.lasts()) }

const maxErrorText = 4 << 10

// answered reports whether a response is Consul's answer, not an error of it or
// of something else that listens there: a 404 of a proxy must not look like
// absence.
func answered(res *http.Response) bool {
	switch {
	case res.Request.Method == http.MethodGet &&
		(res.StatusCode == http.StatusOK || res.StatusCode == http.StatusNotFound):
		return res.Header.Get("X-Consul-Index") != ""
	case res.StatusCode == http.StatusConflict:
		return true // of a transaction: the answer says why
	}
	return res.StatusCode == http.StatusOK
}

// leaderless reports whether a server that gave no answer says that it has no
// leader: it holds requests that need one, each pause longer than the last and the
// time that it should take (rpc_hold_timeout) looked at only between them
// (agent/consul/rpc.go, getWaitTime), so at times for half a minute.
func (f *fleet) leaderless(host *url.URL) bool {
	ctx, cancel := context.WithTimeout(f.flying.life, silentTime)
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

// reachError is a request that got no whole answer.
type reachError struct {
	host       string
	err        error
	leaderless bool // and it said that it has no leader
}

func (e *reachError) Error() string { return fmt.Sprintf("%s: %v", e.host, e.err) }
func (e *reachError) Unwrap() error { return e.err }

// statusError is an answer that is none.
type statusError struct {
	host string
	code int
	body string
}

func (e *statusError) Error() string {
	return fmt.Sprintf("%s: status %d: %s", e.host, e.code, e.line())
}

// unsent reports whether a request cannot have been received: no connection, or
// none that was trusted.
func unsent(err error) bool {
	var reach *reachError
	if !errors.As(err, &reach) {
		return false
	}
	var op *net.OpError
	return errors.As(err, &op) && op.Op == "dial" || untrusted(err) || errors.Is(err, errHandshake)
}

// unapplied reports whether a request cannot have changed anything: it did not
// arrive, or Consul says that there was no leader to give it to ("always safe to
// retry since no state could have been changed": agent/consul/rpc.go, canRetry).
func unapplied(err error) bool {
	var status *statusError
	if errors.As(err, &status) {
		return strings.Contains(status.body, "No cluster leader") ||
			strings.Contains(status.body, "rpc error getting client")
	}
	return unsent(err)
}

// broken reports whether a connection ended under a request: one that was idle
// for long, or that another request's end took along.
func broken(err error) bool {
	var reach *reachError
	return errors.As(err, &reach) && !unsent(err)
}

// electing reports whether a server answered that it reaches no leader: it may
// find the next one by itself.
func electing(err error) bool {
	var status *statusError
	return errors.As(err, &status) && status.code == http.StatusInternalServerError &&
		(strings.Contains(status.body, "No cluster leader") || strings.Contains(status.body, "rpc error") ||
			strings.Contains(status.body, "leadership"))
}

// final reports whether no other address would say anything else.
func final(err error) bool {
	var status *statusError
	return errors.As(err, &status) && status.code >= 400 && status.code < 500 &&
		status.code != http.StatusTooManyRequests && status.code != http.StatusNotFound
}

func refusedToken(err error) bool {
	var status *statusError
	return errors.As(err, &status) && status.code == http.StatusForbidden
}

// CheckAddress parses an address of Consul; dataset.ErrInvalid names the mistake in it.
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

// ended reports whether an error is that of a context.
func ended(err error) bool {
	return errors.Is(err, context.Canceled) || errors.Is(err, context.DeadlineExceeded)
}
