package api

import (
	"bytes"
	"context"
	"crypto/tls"
	"encoding/json"
	"fmt"
	"io"
	"mime"
	"net"
	"net/http"
	"net/url"
	"strings"
	"sync/atomic"
	"time"

	"github.com/droverhq/drover/dataset"
)

// Client asks a server of this API, of the same version, in its process or far
// away, or several that serve the same cluster. It is safe for concurrent use.
//
// Of several it keeps to one as long as that answers. When that cannot be
// reached, answers nothing in time or says that it is unavailable, the next is
// asked, and kept to: at once, unless the request may have been carried out and
// doing it twice is not doing it once. Each client has an order of its own, so
// that those who lose a server spread over the others.
//
// Whatever the server says is wrong becomes an error of the same kind and text
// again; only what it says can be ErrNotFound. A server that cannot be reached,
// or breaks off, is ErrUnavailable. An error of the caller's context is found
// with errors.Is.
type Client struct {
	servers  []server
	current  atomic.Uint32 // the one of servers that is asked first
	patience time.Duration // for how long one of several servers may not answer; 0: forever
	close    func()
	version  string // of this program; empty: not said
}

// SetVersion has the client say the version of its program, which control compares with
// its own. Not once the client is in use.
func (c *Client) SetVersion(version string) { c.version = version }

// server is one that a client can ask.
type server struct {
	base     string // http://host, without a slash at the end
	endpoint string // as people write it
	// transport, and no http.Client: no endpoint redirects.
	transport http.RoundTripper
}

var (
	_ Service = (*Client)(nil)
	_ Local   = (*Client)(nil)
	_ Backup  = (*Client)(nil)
	_ Members = (*Client)(nil)
)

// NewClient returns a client of the servers at unix:///PATH, http://HOST[:PORT]
// or https://HOST[:PORT], with a comma between two. It does not connect.
// ErrInvalid.
func NewClient(endpoints string) (*Client, error) { return NewTLSClient(endpoints, nil) }

// NewTLSClient is NewClient with what https shows and expects.
func NewTLSClient(endpoints string, t *tls.Config) (*Client, error) {
	c := &Client{}
	var transports []*http.Transport
	for endpoint := range strings.SplitSeq(endpoints, ",") {
		s, transport, err := dial(strings.TrimSpace(endpoint), t)
		if err != nil {
			return nil, err
		}
		c.servers, transports = append(c.servers, s), append(transports, transport)
	}
	if len(c.servers) > 1 {
		c.patience = answerTime
		shuffle(c.servers)
	}
	c.close = func() {
		for _, t := range transports {
			t.CloseIdleConnections()
		}
	}
	return c, nil
}

func dial(endpoint string, config *tls.Config) (server, *http.Transport, error) {
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
			KeepAliveConfig: keepAlive(),
			Control:         giveUp,
		}).DialContext,
	}
	if path, ok := strings.CutPrefix(endpoint, "unix://"); ok {
		if !strings.HasPrefix(path, "/") {
			return server{}, nil, badEndpoint(endpoint)
		}
		t.DialContext = func(ctx context.Context, _, _ string) (net.Conn, error) {
			return new(net.Dialer).DialContext(ctx, "unix", path)
		}
		return server{"http://drover", endpoint, t}, t, nil
	}
	u, err := url.Parse(endpoint)
	if err != nil || u.Scheme != "http" && u.Scheme != "https" || u.Host == "" || u.RawQuery != "" || u.User != nil {
		return server{}, nil, badEndpoint(endpoint)
	}
	return server{u.Scheme + "://" + u.Host + strings.TrimSuffix(u.EscapedPath(), "/"), endpoint, t}, t, nil
}

func badEndpoint(endpoint string) error {
	return dataset.Errorf(dataset.ErrInvalid,
		"bad API address %q: want unix:///PATH, http://HOST:PORT or https://HOST:PORT", dataset.Clip(endpoint))
}

// Close lets go of idle connections and, of a loopback client, waits for the
// handlers under way. The client must not be used any more.
func (c *Client) Close() { c.close() }

// call is one request to be made.
type call struct {
	method string
	path   string // escaped
	query  url.Values
	body   any       // sent as JSON, unless nil
	stream io.Reader // sent as it is, with the type
	typ    string
	header http.Header
	// again says that doing it twice is doing it once, so that it can be sent
	// anew, to another server too.
	again bool
	// repeat returns the body to send in place of body once a server may have received the request without
	// answering it. Nil: the same body.
	repeat func() any
	// patience is added to the client's, for requests that wait for something to
	// happen.
	patience time.Duration
}

func (k call) request(ctx context.Context, base string) (*http.Request, error) {
	target := base + k.path
	if len(k.query) > 0 {
		target += "?" + k.query.Encode()
	}
	body, typ := k.stream, k.typ
	if k.body != nil {
		text, err := json.Marshal(k.body)
		if err != nil {
			return nil, fmt.Errorf("request to %s: %w", k.path, err)
		}
		body, typ = bytes.NewReader(text), "application/json"
	}
	req, err := http.NewRequestWithContext(ctx, k.method, target, body)
	if err != nil {
		return nil, dataset.Errorf(dataset.ErrInvalid, "request to %s: %w", k.path, err)
	}
	for name, values := range k.header {
		req.Header[name] = values
	}
	if typ != "" {
		req.Header.Set("Content-Type", typ)
	}
	if k.again && k.repeat == nil {
		// net/http: with this key and no value a request counts as idempotent,
		// and nothing is sent.
		req.Header["Idempotency-Key"] = nil
	}
	return req, nil
}

// maxProblem bounds what of a refusal is read.
const maxProblem = 64 << 10

// refused is the error that a bad answer tells of.
func (s *server) refused(resp *http.Response) error {
	text, err := io.ReadAll(io.LimitReader(resp.Body, maxProblem))
	var p Problem
	typ, _, _ := mime.ParseMediaType(resp.Header.Get("Content-Type"))
	if err == nil && typ == problemType && json.Unmarshal(text, &p) == nil && p.Code != "" {
		return p.Err()
	}
	kind := dataset.ErrInternal
	if resp.StatusCode >= http.StatusInternalServerError {
		kind = dataset.ErrUnavailable // a proxy in front of a server that is away
	}
	return dataset.Errorf(kind, "%s answered %s, which is not drover's way (is it drover, or a proxy? set "+
		"--api or DROVER_API)", s.endpoint, resp.Status)
}

// ask asks for a T.
func ask[T any](ctx context.Context, c *Client, k call) (v T, err error) {
	err = c.each(ctx, k, func(s *server, resp *http.Response) error {
		defer resp.Body.Close()
		text, err := io.ReadAll(resp.Body)
		if err != nil {
			return s.failed(ctx, k, fmt.Errorf("the answer broke off: %w", err))
		}
		var got T
		if err := json.Unmarshal(text, &got); err != nil {
			return dataset.Errorf(dataset.ErrInternal, "%s answered %s %s with what cannot be read: %w", s.endpoint,
				k.method, k.path, err)
		}
		v = got
		return nil
	})
	return v, err
}

// tell makes a call whose answer has no body.
func (c *Client) tell(ctx context.Context, k call) error {
	return c.each(ctx, k, func(_ *server, resp *http.Response) error {
		_, _ = io.Copy(io.Discard, io.LimitReader(resp.Body, maxProblem)) // so that the connection can be used again
		return resp.Body.Close()
	})
}

// refs escapes what callers name into a path: path is a format with a %s for
// each. What no path can carry is no name of anything either. ErrInvalid.
func refs(path string, names ...string) (string, error) {
	escaped := make([]any, len(names))
	for i, n := range names {
		if n == "" || n == "." || n == ".." {
			return "", dataset.Errorf(dataset.ErrInvalid,
				"bad name %q: want a name, or 4 or more characters of a UUID", n)
		}
		escaped[i] = url.PathEscape(n)
	}
	return fmt.Sprintf(path, escaped...), nil
}

// query makes the query of a URL from pairs, without those that are empty.
func query(pairs ...string) url.Values {
	q := url.Values{}
	for i := 0; i+1 < len(pairs); i += 2 {
		if pairs[i+1] != "" {
			q.Set(pairs[i], pairs[i+1])
		}
	}
	return q
}
