package client

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"reflect"
	"strings"
	"sync/atomic"
	"time"

	"github.com/google/uuid"

	"github.com/droverhq/drover/control/api"
	"github.com/droverhq/drover/control/api/endpoint"
	"github.com/droverhq/drover/control/api/wire"
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

// newCall returns a call of an endpoint. The fields of in are the parameters and the body of the request: see
// endpoint.Of. Parameters of the query that have the zero value are left out. It fails with ErrInvalid for a name that
// cannot be part of a path. No object has such a name.
func newCall(e endpoint.Endpoint, in any) call {
	k := call{method: e.Method, route: e.Method + " " + e.Path, path: e.Path, again: e.Idempotent, query: url.Values{},
		header: http.Header{}}
	v := reflect.ValueOf(in)
	for _, f := range reflect.VisibleFields(v.Type()) {
		if value := v.FieldByIndex(f.Index); f.Name == "Body" {
			k.body = value.Interface()
		} else if !f.Anonymous {
			k.set(f.Tag, value)
		}
	}
	return k
}

func (k *call) set(tag reflect.StructTag, v reflect.Value) {
	if name, ok := tag.Lookup("path"); ok {
		text := fmt.Sprint(v.Interface())
		if text == "" || text == "." || text == ".." {
			k.invalid = dataset.Errorf(dataset.ErrInvalid,
				"bad name %q: want a name, or 4 or more characters of a UUID", text)
		}
		k.path = strings.Replace(k.path, "{"+name+"}", url.PathEscape(text), 1)
	}
	if name, ok := tag.Lookup("header"); ok && !v.IsZero() {
		k.header.Set(name, fmt.Sprint(v.Interface()))
	}
	name, ok := tag.Lookup("query")
	if name, _, _ = strings.Cut(name, ","); !ok || v.IsZero() {
		return
	}
	if values, many := v.Interface().([]string); many {
		k.query[name] = values
		return
	}
	k.query.Set(name, fmt.Sprint(v.Interface()))
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

// ask sends a request to an endpoint and returns the body of its answer.
func ask[In, Out any](ctx context.Context, c *connection, e endpoint.Of[In, Out], in In) (Out, error) {
	return fetch[Out](ctx, c, newCall(e.Endpoint, in))
}

// tell sends a request to an endpoint whose answer has no body.
func tell[In any](ctx context.Context, c *connection, e endpoint.Of[In, endpoint.None], in In) error {
	return c.send(ctx, newCall(e.Endpoint, in))
}

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

// minItem is a lower bound of the length of the JSON of an item of a list, in bytes.
const minItem = 100

// page asks for one page of a list.
func page[T any](ctx context.Context, c *connection, k call, size int) (api.List[T], error) {
	return fetchInto(ctx, c, k, func(answer []byte) (l api.List[T]) {
		// Items are large. Without the capacity, most of the time of decoding is spent on moving them.
		l.Items = make([]T, 0, min(size, len(answer)/minItem))
		return l
	})
}

// list asks for one page of a list.
func list[In, T any](ctx context.Context, c *connection, e endpoint.Of[In, api.List[T]], in In, p api.Page) (
	api.List[T], error) {
	return page[T](ctx, c, newCall(e.Endpoint, in), p.Size())
}

// items asks for all pages of a list. request returns the request for a page.
func items[In, T any](ctx context.Context, c *connection, e endpoint.Of[In, api.List[T]], request func(api.Page) In) (
	[]T, error) {
	all := []T{}
	for p := (api.Page{}); ; {
		l, err := list(ctx, c, e, request(p), p)
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

// anyPage is the request for a page of a list that has no other parameters.
func anyPage(p api.Page) api.Page { return p }

// Events calls fn as described in api.Users. If the server ends a stream that follows events, the error is
// ErrUnavailable. The caller can continue after the last ID that it received, unless the server has been
// restarted.
func (u Users) Events(ctx context.Context, after uint64, follow bool, fn func(api.Event) error) error {
	k := newCall(endpoint.GetEvents.Endpoint, endpoint.EventParams{After: after, Follow: follow})
	k.header.Set("Accept", wire.EventStreamType)
	resp, from, err := u.conn.do(ctx, k)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	var stopped error
	err = wire.ReadEvents(resp.Body, func(e api.Event) error {
		if stopped = ctx.Err(); stopped == nil {
			stopped = fn(e)
		}
		return stopped
	})
	switch {
	case stopped != nil:
		return stopped
	case ctx.Err() != nil:
		return from.failed(ctx, k, err)
	case err == nil && follow:
		return from.failed(ctx, k, errors.New("it ended the stream of events"))
	case err == nil || errors.As(err, new(*dataset.Kind)):
		return err
	}
	return from.failed(ctx, k, err)
}

// Export writes a volume, or one snapshot of it, to w as a tar archive, and returns which files the archive lacks. If
// Export fails, the archive is incomplete.
func (h Host) Export(ctx context.Context, ref, snapshot string, w io.Writer) (api.OmittedFiles, error) {
	k := newCall(endpoint.ExportVolume.Endpoint, endpoint.ExportParams{
		VolumeParam: endpoint.VolumeParam{Volume: ref}, Snapshot: snapshot,
	})
	trailer, err := h.conn.download(ctx, k, w)
	if err != nil {
		return api.OmittedFiles{}, err
	}
	return wire.ReadOmittedFiles(trailer)
}

// Backup writes a copy of the store to w. If Backup fails, the copy is incomplete.
func (h Host) Backup(ctx context.Context, w io.Writer) error {
	_, err := h.conn.download(ctx, newCall(endpoint.BackupStore.Endpoint, endpoint.None{}), w)
	return err
}

// Import creates a volume from a tar archive. Only the ID, the volume, the options and the kind OpImport can be set in
// req. If another field is set, it fails with ErrInvalid. After an error, a call of r.Read may still be in progress.
func (h Host) Import(ctx context.Context, req api.Request, r io.Reader) (d dataset.Dataset, err error) {
	if req.ID == uuid.Nil {
		req.ID = uuid.New()
	}
	req.Kind = cmp.Or(req.Kind, dataset.OpImport)
	carried := api.Request{ID: req.ID, Kind: dataset.OpImport, Volume: req.Volume, Options: req.Options}
	if !reflect.DeepEqual(req, carried) {
		return d, dataset.Errorf(dataset.ErrInvalid,
			"import of %q from an archive: expected only the volume and its options", dataset.Clip(req.Volume))
	}
	in := endpoint.UploadParams{
		OperationIDParam: endpoint.OperationIDParam{Operation: req.ID},
		VolumeParam:      endpoint.VolumeParam{Volume: req.Volume},
	}
	for key, value := range req.Options {
		in.Options = append(in.Options, key+"="+value)
	}
	k := newCall(endpoint.UploadVolume.Endpoint, in)
	source := &watchedSource{r: r}
	k.stream, k.typ = source, "application/x-tar"
	// The server must be able to refuse the request before it reads the archive.
	k.header = http.Header{"Expect": {"100-continue"}}
	d, err = fetch[dataset.Dataset](ctx, h.conn, k)
	if cause := source.err.Load(); err != nil && ctx.Err() == nil && cause != nil {
		return d, fmt.Errorf("archive for %q: %w", dataset.Clip(req.Volume), *cause)
	}
	return d, err
}

// watchedSink remembers the error of the caller's writer, so that it is not reported as an error of the server.
type watchedSink struct {
	w   io.Writer
	err error
}

func (s *watchedSink) Write(b []byte) (n int, err error) {
	n, s.err = s.w.Write(b)
	return n, s.err
}

// watchedSource remembers the error of the caller's reader. The transport reads it in another goroutine.
type watchedSource struct {
	r   io.Reader
	err atomic.Pointer[error]
}

func (s *watchedSource) Read(b []byte) (int, error) {
	n, err := s.r.Read(b)
	if err != nil && !errors.Is(err, io.EOF) {
		s.err.Store(&err)
	}
	return n, err
}
