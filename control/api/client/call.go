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

// call is one request.
type call struct {
	method string
	path   string // with its variable parts escaped
	query  url.Values
	body   any       // sent as JSON; nil: none
	stream io.Reader // sent unchanged, as the media type typ
	typ    string
	header http.Header
	// again reports that the request is idempotent, so it can be sent a second time, also to another server.
	again bool
	// repeat returns the body for the second attempt, after a server may have received the request without
	// answering it. If nil, the body stays the same.
	repeat func() any
	// patience is added to the patience of the connection, for requests that wait for something to happen.
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
		// net/http takes a request with this key for idempotent. Without a value it does not send the header.
		req.Header["Idempotency-Key"] = nil
	}
	return req, nil
}

// twice reports whether the request is idempotent.
func (k call) twice() bool { return k.again || k.method == http.MethodGet }

// ask makes a call and decodes its answer.
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

// refs puts names into a path. The format path has one %s for each name. The names are escaped. ErrInvalid if a
// name cannot be part of a path: nothing has such a name.
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

// query returns the query of a URL from pairs of names and values. Empty values are left out.
func query(pairs ...string) url.Values {
	q := url.Values{}
	for i := 0; i+1 < len(pairs); i += 2 {
		if pairs[i+1] != "" {
			q.Set(pairs[i], pairs[i+1])
		}
	}
	return q
}

// one asks for one object by its name.
func one[T any](ctx context.Context, c *connection, path, name string, params ...string) (T, error) {
	path, err := refs(path, name)
	if err != nil {
		var none T
		return none, err
	}
	return ask[T](ctx, c, call{method: http.MethodGet, path: path, query: query(params...)})
}

// list asks for one page of a list.
func list[T any](ctx context.Context, c *connection, path string, p api.Page, params ...string) (api.List[T], error) {
	params = append(params, "after", p.After)
	if p.Limit != 0 {
		params = append(params, "limit", strconv.Itoa(p.Limit))
	}
	return ask[api.List[T]](ctx, c, call{method: http.MethodGet, path: path, query: query(params...)})
}

// items asks for a list that has only one page.
func items[T any](ctx context.Context, c *connection, path string, params ...string) ([]T, error) {
	l, err := ask[api.List[T]](ctx, c, call{method: http.MethodGet, path: path, query: query(params...)})
	return l.Items, err
}
