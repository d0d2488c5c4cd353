package api

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"mime"
	"net"
	"net/http"
	"net/url"
	"strings"
	"time"

	"github.com/droverhq/drover/dataset"
)

// Client asks a server of this API, of the same version, in its process or far
// away. It is safe for concurrent use.
//
// Whatever the server says is wrong becomes an error of the same kind and text
// again; only what it says can be ErrNotFound. A server that cannot be reached,
// or breaks off, is ErrUnavailable. An error of the caller's context is found
// with errors.Is.
type Client struct {
	base     string // http://host, without a slash at the end
	endpoint string // as people write it
	// transport, and no http.Client: no endpoint redirects.
	transport http.RoundTripper
	close     func()
}

var (
	_ Service = (*Client)(nil)
	_ Local   = (*Client)(nil)
	_ Backup  = (*Client)(nil)
)

// NewClient returns a client of the server at unix:///PATH, http://HOST[:PORT]
// or https://HOST[:PORT]. It does not connect. ErrInvalid.
func NewClient(endpoint string) (*Client, error) {
	t := &http.Transport{
		MaxIdleConns:          64,
		MaxIdleConnsPerHost:   64,
		IdleConnTimeout:       90 * time.Second,
		ExpectContinueTimeout: 5 * time.Second,
		DisableCompression:    true,
	}
	c := &Client{endpoint: endpoint, transport: t, close: t.CloseIdleConnections}
	if path, ok := strings.CutPrefix(endpoint, "unix://"); ok {
		if !strings.HasPrefix(path, "/") {
			return nil, badEndpoint(endpoint)
		}
		c.base = "http://drover"
		t.DialContext = func(ctx context.Context, _, _ string) (net.Conn, error) {
			return new(net.Dialer).DialContext(ctx, "unix", path)
		}
		return c, nil
	}
	u, err := url.Parse(endpoint)
	if err != nil || u.Scheme != "http" && u.Scheme != "https" || u.Host == "" || u.RawQuery != "" || u.User != nil {
		return nil, badEndpoint(endpoint)
	}
	c.base = u.Scheme + "://" + u.Host + strings.TrimSuffix(u.EscapedPath(), "/")
	return c, nil
}

func badEndpoint(endpoint string) error {
	return dataset.Errorf(dataset.ErrInvalid, "bad API address %q: want unix:///PATH, http://HOST:PORT or https://HOST:PORT", dataset.Clip(endpoint))
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
	// anew when an idle connection turns out to be dead.
	again bool
}

// do makes the call and returns its answer when it is a good one; the caller
// closes the body.
func (c *Client) do(ctx context.Context, k call) (*http.Response, error) {
	req, err := k.request(ctx, c.base)
	if err != nil {
		return nil, err
	}
	resp, err := c.transport.RoundTrip(req)
	if err != nil {
		return nil, c.failed(ctx, k, err)
	}
	if resp.StatusCode < 300 {
		return resp, nil
	}
	defer resp.Body.Close()
	if ctx.Err() != nil {
		return nil, c.failed(ctx, k, nil) // it may well be why
	}
	return nil, c.refused(resp)
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
	if k.again {
		// net/http: with this key and no value a request counts as idempotent,
		// and nothing is sent.
		req.Header["Idempotency-Key"] = nil
	}
	return req, nil
}

// failed is the error of a request that got no answer, or half of one.
func (c *Client) failed(ctx context.Context, k call, err error) error {
	if ctx.Err() != nil {
		return fmt.Errorf("%s %s: %w", k.method, k.path, ctx.Err())
	}
	hint := "is `drover serve` running? set --api or DROVER_API"
	if errors.Is(err, fs.ErrPermission) {
		hint = "want root, or a member of the group drover"
	}
	return dataset.Errorf(dataset.ErrUnavailable, "cannot reach drover at %s: %w (%s)", c.endpoint, err, hint)
}

// maxProblem bounds what of a refusal is read.
const maxProblem = 64 << 10

// refused is the error that a bad answer tells of.
func (c *Client) refused(resp *http.Response) error {
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
	return dataset.Errorf(kind, "%s answered %s, which is not drover's way (is it drover, or a proxy? set --api or DROVER_API)", c.endpoint, resp.Status)
}

// ask asks for a T.
func ask[T any](ctx context.Context, c *Client, k call) (v T, err error) {
	resp, err := c.do(ctx, k)
	if err != nil {
		return v, err
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	if err != nil {
		return v, c.failed(ctx, k, fmt.Errorf("the answer broke off: %w", err))
	}
	if err := json.Unmarshal(text, &v); err != nil {
		return v, dataset.Errorf(dataset.ErrInternal, "%s answered %s %s with what cannot be read: %w", c.endpoint, k.method, k.path, err)
	}
	return v, nil
}

// tell makes a call whose answer has no body.
func (c *Client) tell(ctx context.Context, k call) error {
	resp, err := c.do(ctx, k)
	if err != nil {
		return err
	}
	_, _ = io.Copy(io.Discard, io.LimitReader(resp.Body, maxProblem)) // so that the connection can be used again
	return resp.Body.Close()
}

// refs escapes what callers name into a path: path is a format with a %s for
// each. What no path can carry is no name of anything either. ErrInvalid.
func refs(path string, names ...string) (string, error) {
	escaped := make([]any, len(names))
	for i, n := range names {
		if n == "" || n == "." || n == ".." {
			return "", dataset.Errorf(dataset.ErrInvalid, "bad name %q: want a name, or 4 or more characters of a UUID", n)
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
