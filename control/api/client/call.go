package client

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strconv"
	"time"

	"github.com/droverhq/drover/control/api"
	"github.com/droverhq/drover/control/api/route"
	"github.com/droverhq/drover/dataset"
)

// call is one request.
type call struct {
	method string
	route  string // the method and path of the route, with the names of the variable parts
	path   string // with its variable parts escaped
	query  url.Values
	body   any       // sent as JSON; nil: none
	stream io.Reader // sent unchanged, as the media type typ
	typ    string
	header http.Header
	// again is true if the request is idempotent, so that it can be sent a second time, also to another server.
	again bool
	// repeat returns the body for the second attempt, after a server may have received the request without
	// answering it. If nil, the body stays the same.
	repeat func() any
	// patience is added to the patience of the connection, for requests that wait for something to happen.
	patience time.Duration
	invalid  error // why the call cannot be made at all
}

// newCall returns a call of a route. The names replace the parameters of its path.
func newCall(r route.Route, names ...string) call {
	path, err := r.Fill(names...)
	return call{method: r.Method, route: r.Method + " " + r.Path, path: path, invalid: err}
}

// with returns the call with a body.
func (k call) with(body any) call {
	k.body = body
	return k
}

// idempotent returns the call as one that can be sent a second time.
func (k call) idempotent() call {
	k.again = true
	return k
}

// noteRepeat returns the call as one that sets again when it is sent a second time, after a server may have received
// the request without answering it.
func (k call) noteRepeat(again *bool) call {
	body := k.body
	k.repeat = func() any {
		*again = true
		return body
	}
	return k
}

// errorOfRepeat returns the error of a removal. If the request was sent a second time and the object was not found, the
// first attempt may have removed it, so the error becomes a dataset.ErrUnavailable.
func errorOfRepeat(err error, again bool) error {
	if again && (errors.Is(err, dataset.ErrNotFound) || errors.Is(err, dataset.ErrInvalid)) {
		return dataset.Errorf(dataset.ErrUnavailable,
			"the first attempt got no answer, and may have succeeded; the second one failed: %w", err)
	}
	return err
}

// request returns the HTTP request for the server at base.
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
		// net/http treats a request with this key as idempotent. Because the value is nil, it does not send the
		// header.
		req.Header["Idempotency-Key"] = nil
	}
	return req, nil
}

// repeatable reports whether the request is idempotent.
func (k call) repeatable() bool { return k.again || k.method == http.MethodGet }

// fetch makes a call and decodes its answer.
func fetch[T any](ctx context.Context, c *connection, k call) (T, error) {
	return fetchInto(ctx, c, k, func([]byte) (v T) { return v })
}

// fetchInto makes a call and decodes its answer. The function empty returns the value that the answer is decoded into:
// it gets the text of the answer, and can allocate space for it.
func fetchInto[T any](ctx context.Context, c *connection, k call, empty func(answer []byte) T) (v T, err error) {
	err = c.each(ctx, k, func(s *remote, resp *http.Response) error {
		defer resp.Body.Close()
		text, err := io.ReadAll(resp.Body)
		if err != nil {
			return s.failed(ctx, k, fmt.Errorf("the response ended early: %w", err))
		}
		readAhead(ctx, text)
		got := empty(text)
		if err := dataset.DecodeRecord(text, &got); err != nil {
			return dataset.Errorf(dataset.ErrInternal, "%s %s %s: cannot read the response: %w", s.endpoint,
				k.method, k.path, err)
		}
		v = got
		return nil
	})
	return v, err
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

// flag returns the value of a boolean parameter in a query. It is empty for false, so that query leaves it out.
func flag(set bool) string {
	if set {
		return "true"
	}
	return ""
}

// one asks for one object by its name.
func one[T any](ctx context.Context, c *connection, r route.Route, name string, params ...string) (T, error) {
	k := newCall(r, name)
	k.query = query(params...)
	return fetch[T](ctx, c, k)
}

// minItem is a lower bound of the length of the JSON of an item of a list, in bytes.
const minItem = 100

// list asks for one page of a list.
func list[T any](
	ctx context.Context, c *connection, r route.Route, p api.Page, params ...string,
) (api.List[T], error) {
	return listWith[T](ctx, c, newCall(r), p, params...)
}

// listWith asks for one page of a list with a call.
func listWith[T any](
	ctx context.Context, c *connection, k call, p api.Page, params ...string,
) (api.List[T], error) {
	params = append(params, "after", p.After)
	if p.Limit != 0 {
		params = append(params, "limit", strconv.Itoa(p.Limit))
	}
	k.query = query(params...)
	return fetchInto(ctx, c, k, func(answer []byte) (l api.List[T]) {
		// Items are large. Without the capacity, most of the time of decoding is spent on moving them.
		l.Items = make([]T, 0, min(p.Size(), len(answer)/minItem))
		return l
	})
}

// items asks for all pages of a list.
func items[T any](ctx context.Context, c *connection, r route.Route, params ...string) ([]T, error) {
	all := []T{}
	for p := (api.Page{}); ; {
		l, err := list[T](ctx, c, r, p, params...)
		if err != nil {
			return nil, err
		}
		all = append(all, l.Items...)
		if l.Next == "" || l.Next == p.After {
			return all, nil
		}
		p.After = l.Next
	}
}
