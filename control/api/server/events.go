package server

import (
	"context"
	"errors"
	"net/http"
	"reflect"
	"time"

	"github.com/danielgtaylor/huma/v2"
	"github.com/danielgtaylor/huma/v2/adapters/humago"

	"github.com/droverhq/drover/control/api"
	"github.com/droverhq/drover/control/api/endpoint"
	"github.com/droverhq/drover/control/api/wire"
	"github.com/droverhq/drover/internal/clock"
)

const eventPatience = 30 * time.Second // for a peer that does not read

func (h handlers) events() {
	schema := &huma.Schema{
		Type: huma.TypeObject, Required: []string{"id", "data"},
		Properties: map[string]*huma.Schema{
			"id":   {Type: huma.TypeInteger, Format: "int64", Description: "the event's ID"},
			"data": h.api.OpenAPI().Components.Schemas.Schema(reflect.TypeFor[api.Event](), true, ""),
		},
	}
	add(h, endpoint.GetEvents.Endpoint, func(_ context.Context, in *endpoint.EventParams) (*Bytes, error) {
		return &Bytes{Body: func(hc huma.Context) {
			r, w := humago.Unwrap(hc)
			h.follow(r.Context(), w, max(in.After, in.Last), in.Follow)
		}}, nil
	}, responds(wire.EventStreamType, schema))
}

func (h handlers) follow(ctx context.Context, w http.ResponseWriter, after uint64, follow bool) {
	w.Header().Set("Content-Type", wire.EventStreamType)
	w.Header().Set("Cache-Control", "no-store")
	conn := http.NewResponseController(w)
	_ = conn.Flush() // so that the peer knows it is connected; if the peer is gone, ctx ends
	ctx, end := waiting(ctx)
	// A peer that stops reading must not block the service. The runtime measures this deadline, so it is a time of
	// the system's clock. A request within this process has no connection, and so no deadline.
	defer func() { _ = conn.SetWriteDeadline(time.Time{}) }()
	err := end(h.Service.Events(ctx, after, follow, func(e api.Event) error {
		frame, err := wire.EncodeEvent(e)
		if err != nil {
			return err
		}
		_ = conn.SetWriteDeadline(clock.Deadline(eventPatience))
		if _, err := w.Write(frame); err != nil {
			return err
		}
		if err := conn.Flush(); !errors.Is(err, http.ErrNotSupported) {
			return err
		}
		return nil
	}))
	if err != nil {
		_, _ = w.Write(wire.EncodeProblem(err))
	}
}
