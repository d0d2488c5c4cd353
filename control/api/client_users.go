package api

import (
	"context"
	"errors"
	"net/http"
	"strconv"
	"time"

	"github.com/google/uuid"

	"github.com/droverhq/drover/dataset"
)

// Submit asks for a change. A request without an ID gets one.
func (c *Client) Submit(ctx context.Context, req Request) (Outcome, error) {
	if req.ID == uuid.Nil {
		req.ID = uuid.New()
	}
	return ask[Outcome](ctx, c, call{method: http.MethodPost, path: "/v1/operations", body: req, again: true})
}

// Volume returns a volume by name or prefix.
func (c *Client) Volume(ctx context.Context, ref string) (Volume, error) {
	return one[Volume](ctx, c, "/v1/volumes/%s", ref)
}

// Volumes lists volumes by name.
func (c *Client) Volumes(ctx context.Context, p Page) (List[Volume], error) {
	return list[Volume](ctx, c, "/v1/volumes", p)
}

// Trash lists what is in the trash.
func (c *Client) Trash(ctx context.Context, p Page) (List[Volume], error) {
	return list[Volume](ctx, c, "/v1/trash", p)
}

// Snapshots lists those of one volume or, with an empty ref, all.
func (c *Client) Snapshots(ctx context.Context, ref string, p Page) (List[dataset.Snapshot], error) {
	return list[dataset.Snapshot](ctx, c, "/v1/snapshots", p, "volume", ref)
}

// Snapshot finds one by name (in a volume, when ref is not empty) or prefix.
func (c *Client) Snapshot(ctx context.Context, ref, snapshot string) (dataset.Snapshot, error) {
	return one[dataset.Snapshot](ctx, c, "/v1/snapshots/%s", snapshot, "volume", ref)
}

// Profiles lists the profiles.
func (c *Client) Profiles(ctx context.Context) ([]dataset.Profile, error) {
	return items[dataset.Profile](ctx, c, "/v1/profiles")
}

// Profile returns one by name.
func (c *Client) Profile(ctx context.Context, name string) (dataset.Profile, error) {
	return one[dataset.Profile](ctx, c, "/v1/profiles/%s", name)
}

// Pools lists the pools.
func (c *Client) Pools(ctx context.Context) ([]Pool, error) {
	return items[Pool](ctx, c, "/v1/pools")
}

// NodeList lists the nodes that a filter is true of.
func (c *Client) NodeList(ctx context.Context, filter string) ([]Node, error) {
	return items[Node](ctx, c, "/v1/nodes", "filter", filter)
}

// Cordon says whether nothing new is to be put on a node.
func (c *Client) Cordon(ctx context.Context, id uuid.UUID, set Cordoned) (dataset.Node, error) {
	return ask[dataset.Node](ctx, c, node(id, "/cordon", set))
}

// Fence vouches that a node which is away writes no more.
func (c *Client) Fence(ctx context.Context, id uuid.UUID, f Fenced) (dataset.Node, error) {
	return ask[dataset.Node](ctx, c, node(id, "/fence", f))
}

// Failover says whether volumes fail over by themselves.
func (c *Client) Failover(ctx context.Context) (FailoverState, error) {
	return ask[FailoverState](ctx, c, call{method: http.MethodGet, path: "/v1/failover"})
}

// Operations lists operations.
func (c *Client) Operations(ctx context.Context, p Page) (List[dataset.Operation], error) {
	return list[dataset.Operation](ctx, c, "/v1/operations", p)
}

// Operation returns one, waiting as Users says, ten minutes at most.
func (c *Client) Operation(ctx context.Context, id string, wait time.Duration) (dataset.Operation, error) {
	path, err := refs("/v1/operations/%s", id)
	if err != nil {
		return dataset.Operation{}, err
	}
	return ask[dataset.Operation](ctx, c, call{
		method:   http.MethodGet,
		path:     path,
		query:    query("wait", waitFor(wait)),
		patience: min(max(wait, 0), maxWait),
	})
}

// CancelOperation cancels one.
func (c *Client) CancelOperation(ctx context.Context, id string) (dataset.Operation, error) {
	path, err := refs("/v1/operations/%s/cancel", id)
	if err != nil {
		return dataset.Operation{}, err
	}
	return ask[dataset.Operation](ctx, c, call{method: http.MethodPost, path: path, again: true})
}

// Version says what answers.
func (c *Client) Version(ctx context.Context) (Version, error) {
	return ask[Version](ctx, c, call{method: http.MethodGet, path: "/v1/version"})
}

// Events calls fn as Users says. When the server ends a stream that was to
// follow, that is ErrUnavailable; what was missed comes after the last ID, unless
// the server has been started anew.
func (c *Client) Events(ctx context.Context, after uint64, follow bool, fn func(Event) error) error {
	k := call{
		method: http.MethodGet, path: "/v1/events",
		query:  query("after", strconv.FormatUint(after, 10), "follow", strconv.FormatBool(follow)),
		header: http.Header{"Accept": {eventStream}},
	}
	resp, from, err := c.do(ctx, k)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	var stopped error
	err = readEvents(resp.Body, func(e Event) error {
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

// one asks for one thing by name.
func one[T any](ctx context.Context, c *Client, path, name string, params ...string) (T, error) {
	path, err := refs(path, name)
	if err != nil {
		var none T
		return none, err
	}
	return ask[T](ctx, c, call{method: http.MethodGet, path: path, query: query(params...)})
}

// list asks for a page.
func list[T any](ctx context.Context, c *Client, path string, p Page, params ...string) (List[T], error) {
	params = append(params, "after", p.After)
	if p.Limit != 0 {
		params = append(params, "limit", strconv.Itoa(p.Limit))
	}
	return ask[List[T]](ctx, c, call{method: http.MethodGet, path: path, query: query(params...)})
}

// items asks for a list that has one page.
func items[T any](ctx context.Context, c *Client, path string, params ...string) ([]T, error) {
	l, err := ask[List[T]](ctx, c, call{method: http.MethodGet, path: path, query: query(params...)})
	return l.Items, err
}

func waitFor(d time.Duration) string {
	if d <= 0 {
		return ""
	}
	return min(d, maxWait).String()
}
