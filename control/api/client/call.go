package client

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strconv"
	"time"

	"github.com/droverhq/drover/control/api"
	"github.com/droverhq/drover/dataset"
)

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

// twice reports whether doing it twice is doing it once.
func (k call) twice() bool { return k.again || k.method == http.MethodGet }

// ask asks for a T.
func ask[T any](ctx context.Context, c *connection, k call) (v T, err error) {
	err = c.each(ctx, k, func(s *remote, resp *http.Response) error {
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

// one asks for one thing by name.
func one[T any](ctx context.Context, c *connection, path, name string, params ...string) (T, error) {
	path, err := refs(path, name)
	if err != nil {
		var none T
		return none, err
	}
	return ask[T](ctx, c, call{method: http.MethodGet, path: path, query: query(params...)})
}

// list asks for a page.
func list[T any](ctx context.Context, c *connection, path string, p api.Page, params ...string) (api.List[T], error) {
	params = append(params, "after", p.After)
	if p.Limit != 0 {
		params = append(params, "limit", strconv.Itoa(p.Limit))
	}
	return ask[api.List[T]](ctx, c, call{method: http.MethodGet, path: path, query: query(params...)})
}

// items asks for a list that has one page.
func items[T any](ctx context.Context, c *connection, path string, params ...string) ([]T, error) {
	l, err := ask[api.List[T]](ctx, c, call{method: http.MethodGet, path: path, query: query(params...)})
	return l.Items, err
}
