package api

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"reflect"
	"sync"

	"github.com/google/uuid"

	"github.com/droverhq/drover/dataset"
)

// Doctor says what works on the server's host.
func (c *Client) Doctor(ctx context.Context) ([]Finding, error) {
	return items[Finding](ctx, c, "/v1/doctor")
}

// Collect destroys one thing that the store does not know.
func (c *Client) Collect(ctx context.Context, id uuid.UUID) error {
	return c.tell(ctx, call{method: http.MethodDelete, path: "/v1/doctor/" + id.String()})
}

// CreatePool makes a pool on the server's host.
func (c *Client) CreatePool(ctx context.Context, p NewPool) (dataset.Pool, error) {
	return ask[dataset.Pool](ctx, c, call{method: http.MethodPost, path: "/v1/pools", body: p})
}

// AdoptPool takes over a pool that lies on the server's host.
func (c *Client) AdoptPool(ctx context.Context, path string) (dataset.Pool, []Rebuilt, error) {
	a, err := ask[Adopted](ctx, c, call{method: http.MethodPost, path: "/v1/pools/adopt", body: AdoptPool{Path: path}})
	return a.Pool, a.Rebuilt, err
}

// AcceptPool has a pool of the server's host that is held serve as it is.
func (c *Client) AcceptPool(ctx context.Context, p AcceptPool) (dataset.Pool, error) {
	return ask[dataset.Pool](ctx, c, call{method: http.MethodPost, path: "/v1/pools/accept", body: p})
}

// RemovePool removes a pool of the server's host that holds nothing; with forget it only takes it
// off the record.
func (c *Client) RemovePool(ctx context.Context, name string, forget bool) (p RemovedPool, err error) {
	path, err := refs("/v1/pools/%s", name)
	if err != nil {
		return p, err
	}
	k := call{method: http.MethodDelete, path: path}
	if forget {
		k.query = query("forget", "true")
	}
	return ask[RemovedPool](ctx, c, k)
}

// RebuildStore brings back the names from the pools of the server's host.
func (c *Client) RebuildStore(ctx context.Context, skipOffline bool) ([]Rebuilt, error) {
	k := call{method: http.MethodPost, path: "/v1/store/rebuild"}
	if skipOffline {
		k.query = query("skip_offline", "true")
	}
	l, err := ask[List[Rebuilt]](ctx, c, k)
	return l.Items, err
}

// Export writes a volume, or one snapshot of it, to w as a tar archive, and returns
// what the archive lacks. With an error, what was written is not the whole.
func (c *Client) Export(ctx context.Context, ref, snapshot string, w io.Writer) (LeftOut, error) {
	path, err := refs("/v1/volumes/%s/export", ref)
	if err != nil {
		return LeftOut{}, err
	}
	trailer, err := c.download(ctx, call{method: http.MethodGet, path: path, query: query("snapshot", snapshot)}, w)
	if err != nil {
		return LeftOut{}, err
	}
	return leftOutOf(trailer)
}

// Backup writes a copy of the store to w. With an error, what was written is
// not the whole.
func (c *Client) Backup(ctx context.Context, w io.Writer) error {
	_, err := c.download(ctx, call{method: http.MethodGet, path: "/v1/store/backup"}, w)
	return err
}

// download returns the trailers of an answer that is whole.
func (c *Client) download(ctx context.Context, k call, w io.Writer) (http.Header, error) {
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
		return nil, from.failed(ctx, k, fmt.Errorf("the archive broke off (what was written is not the whole): %w",
			err))
	}
	if ctx.Err() != nil {
		return nil, from.failed(ctx, k, nil)
	}
	return resp.Trailer, ended(resp.Trailer)
}

// Import fills a new volume from a tar archive. Of req only the ID, the volume,
// the options and the kind can be set, the kind to OpImport: ErrInvalid. After an
// error a last read of r may still be under way.
func (c *Client) Import(ctx context.Context, req Request, r io.Reader) (d dataset.Dataset, err error) {
	if req.ID == uuid.Nil {
		req.ID = uuid.New()
	}
	if req.Kind == "" {
		req.Kind = dataset.OpImport
	}
	if !reflect.DeepEqual(req, Request{ID: req.ID, Kind: dataset.OpImport, Volume: req.Volume, Options: req.Options}) {
		return d, dataset.Errorf(dataset.ErrInvalid,
			"import of %q from an archive: want no more than the volume and its options", dataset.Clip(req.Volume))
	}
	path, err := refs("/v1/volumes/%s/upload", req.Volume)
	if err != nil {
		return d, err
	}
	q := query("operation", req.ID.String())
	for key, value := range req.Options {
		q.Add("o", key+"="+value)
	}
	source := &watchedSource{r: r}
	d, err = ask[dataset.Dataset](ctx, c, call{
		method: http.MethodPost, path: path, query: q, stream: source, typ: "application/x-tar",
		// A refusal must come before the archive is spent.
		header: http.Header{"Expect": {"100-continue"}},
	})
	if cause := source.failure(); err != nil && ctx.Err() == nil && cause != nil {
		return d, fmt.Errorf("archive for %q: %w", dataset.Clip(req.Volume), cause)
	}
	return d, err
}

// Diff compares two snapshots of a dataset, or one with the head.
func (c *Client) Diff(ctx context.Context, older, newer string) (Diff, error) {
	return one[Diff](ctx, c, "/v1/snapshots/%s/diff", older, "newer", newer)
}

// watchedSink keeps the error of the caller's writer apart from the server's.
type watchedSink struct {
	w   io.Writer
	err error
}

func (s *watchedSink) Write(b []byte) (n int, err error) {
	n, s.err = s.w.Write(b)
	return n, s.err
}

// watchedSource does so with the caller's reader, which the transport reads in a
// goroutine of its own.
type watchedSource struct {
	r   io.Reader
	mu  sync.Mutex
	err error
}

func (s *watchedSource) Read(b []byte) (int, error) {
	n, err := s.r.Read(b)
	if err != nil && !errors.Is(err, io.EOF) {
		s.mu.Lock()
		defer s.mu.Unlock()
		s.err = err
	}
	return n, err
}

func (s *watchedSource) failure() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.err
}
