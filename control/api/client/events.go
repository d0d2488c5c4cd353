package client

import (
	"context"
	"errors"

	"github.com/droverhq/drover/control/api"
	"github.com/droverhq/drover/control/api/endpoint"
	"github.com/droverhq/drover/control/api/wire"
	"github.com/droverhq/drover/dataset"
)

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
