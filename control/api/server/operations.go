package server

import (
	"context"
	"errors"
	"net/http"
	"reflect"
	"strings"
	"time"

	"github.com/danielgtaylor/huma/v2"
	"github.com/danielgtaylor/huma/v2/adapters/humago"

	"github.com/droverhq/drover/control/api"
	"github.com/droverhq/drover/control/api/endpoint"
	"github.com/droverhq/drover/control/api/wire"
	"github.com/droverhq/drover/dataset"
	"github.com/droverhq/drover/internal/clock"
)

func (h handlers) operations() {
	bind(h, endpoint.ListProfiles, func(ctx context.Context, in *api.Page) (api.List[api.ListedProfile], error) {
		list, err := h.Service.Profiles(ctx)
		return cutPage(*in, list, err, func(_ int, p api.ListedProfile) string { return p.Name })
	})
	bind(h, endpoint.GetProfile, func(ctx context.Context, in *endpoint.ProfileParam) (dataset.Profile, error) {
		return h.Service.Profile(ctx, in.Profile)
	})
	bind(h, endpoint.ListOperations, func(ctx context.Context, in *api.Page) (api.List[dataset.Operation], error) {
		return paged(*in, isUUID, func() (api.List[dataset.Operation], error) { return h.Service.Operations(ctx, *in) })
	})
	bindWork(h, endpoint.SubmitOperation,
		func(ctx context.Context, in *endpoint.With[api.Request]) (api.Outcome, string, error) {
			return h.submit(ctx, in.Body)
		})
	bind(h, endpoint.GetOperation, untilStop(
		func(ctx context.Context, in *endpoint.OperationWait) (op dataset.Operation, err error) {
			wait, err := wire.ParseWait(in.Wait)
			if err != nil {
				return op, err
			}
			return h.Service.Operation(ctx, in.Operation, wait)
		}))
	bindWork(h, endpoint.CancelOperation,
		func(ctx context.Context, in *endpoint.OperationRefParam) (dataset.Operation, string, error) {
			op, err := h.Service.CancelOperation(ctx, in.Operation)
			return op, pendingLocation(&op), err
		})
	bind(h, endpoint.GetVersion, func(ctx context.Context, _ *endpoint.None) (api.Version, error) {
		v, err := h.Service.Version(ctx)
		if h.Node != "" { // the service may be control on another host
			v.Node = h.Node
		}
		return v, err
	})
	h.events()
}

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

// Bytes is an answer that is not JSON.
type Bytes struct {
	Body func(huma.Context)
}

// binary is the schema of a stream of bytes.
var binary = &huma.Schema{Type: huma.TypeString, Format: "binary"}

func content(mediaType string, s *huma.Schema) map[string]*huma.MediaType {
	return map[string]*huma.MediaType{mediaType: {Schema: s}}
}

// responds describes the answer of an endpoint that is not JSON.
func responds(mediaType string, s *huma.Schema) setting {
	return func(op *huma.Operation) {
		op.Responses["200"] = &huma.Response{Description: "OK", Content: content(mediaType, s)}
	}
}

// stream answers with the bytes that write produces. An error before the first byte is answered as a problem.
func stream(contentType string, write func(context.Context, *streamWriter) error) *Bytes {
	return &Bytes{Body: func(hc huma.Context) {
		r, w := humago.Unwrap(hc)
		out := &streamWriter{w: w, contentType: contentType, trailers: wire.WantsTrailers(r)}
		err := write(r.Context(), out)
		changeOf(r.Context()).noteBytes(out.sent, err)
		out.end(err)
	}}
}

type streamWriter struct {
	w           http.ResponseWriter
	contentType string
	trailers    bool
	begun       bool
	sent        int64
	leftOut     api.OmittedFiles
}

func (s *streamWriter) begin() {
	if s.begun {
		return
	}
	s.begun = true
	s.w.Header().Set("Content-Type", s.contentType)
	if s.trailers {
		s.w.Header().Set("Trailer", strings.Join(wire.TrailerNames(), ", "))
	}
	s.w.WriteHeader(http.StatusOK)
}

func (s *streamWriter) Write(b []byte) (int, error) {
	s.begin()
	n, err := s.w.Write(b)
	s.sent += int64(n)
	return n, err
}

func (s *streamWriter) end(err error) {
	if err != nil && !s.begun {
		wire.ProblemOf(err).Write(s.w)
		return
	}
	s.begin()
	switch {
	case s.trailers:
		wire.SetTrailers(s.w.Header(), s.leftOut, err)
	case err != nil:
		panic(http.ErrAbortHandler)
	}
}
