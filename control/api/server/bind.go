package server

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"net/http"
	"slices"
	"strings"
	"sync"

	"github.com/danielgtaylor/huma/v2"
	"github.com/danielgtaylor/huma/v2/validation"
	"github.com/google/uuid"

	"github.com/droverhq/drover/control/api"
	"github.com/droverhq/drover/control/api/endpoint"
	"github.com/droverhq/drover/control/api/openapi"
	"github.com/droverhq/drover/control/api/wire"
	"github.com/droverhq/drover/dataset"
	"github.com/droverhq/drover/internal/requestid"
)

// handlers binds handlers to the rows of package endpoint.
type handlers struct {
	Deps
	api     huma.API
	missing error // why this process cannot serve the endpoints that follow; nil: it can
}

// unless returns h for endpoints that this process cannot serve if lacks is true. They answer with the error then.
func (h handlers) unless(lacks bool, missing error) handlers {
	h.missing = nil
	if lacks {
		h.missing = missing
	}
	return h
}

var (
	errHostOnly = dataset.Errorf(dataset.ErrUnsupported,
		"this is control: run the command on a node, or send the request there (without DROVER_API and --api)")
	errClusterOnly = dataset.Errorf(dataset.ErrUnsupported,
		"this request needs a control replica of a cluster, and this server is none (ask one as root of a control "+
			"host with "+api.OnControl+")")
	errStoreInConsul = dataset.Errorf(dataset.ErrUnsupported,
		"backup of the store: the records of a cluster are in Consul (use consul snapshot save FILE)")
)

// setting changes how an endpoint is served.
type setting func(*huma.Operation)

func maxBody(bytes int64) setting { return func(op *huma.Operation) { op.MaxBodyBytes = bytes } }

func before(f func(huma.Context, func(huma.Context))) setting {
	return func(op *huma.Operation) { op.Middlewares = append(op.Middlewares, f) }
}

// answer is a response with a JSON body.
type answer[T any] struct{ Body T }

// bind serves a row whose answer has a body.
func bind[In, Out any](h handlers, e endpoint.Of[In, Out], f func(context.Context, *In) (Out, error), s ...setting) {
	add(h, e.Endpoint, func(ctx context.Context, in *In) (*answer[Out], error) {
		out, err := f(ctx, in)
		if err != nil {
			return nil, err
		}
		return &answer[Out]{out}, nil
	}, s...)
}

// bindNone serves a row whose answer has no body.
func bindNone[In any](h handlers, e endpoint.Of[In, endpoint.None], f func(context.Context, *In) error, s ...setting) {
	add(h, e.Endpoint, func(ctx context.Context, in *In) (*struct{}, error) { return nil, f(ctx, in) }, s...)
}

// work is a response about work that can continue as an operation. Then the status is 202 and Location names the
// operation.
type work[T any] struct {
	Status   int
	Location string `header:"Location"`
	Body     T
}

// bindWork serves a row that starts work. f also returns the location of the operations that have not ended; it is
// empty if all have ended.
func bindWork[In, Out any](h handlers, e endpoint.Of[In, Out], f func(context.Context, *In) (Out, string, error)) {
	add(h, e.Endpoint, func(ctx context.Context, in *In) (*work[Out], error) {
		out, location, err := f(ctx, in)
		if err != nil {
			return nil, err
		}
		if location != "" {
			return &work[Out]{http.StatusAccepted, location, out}, nil
		}
		return &work[Out]{http.StatusOK, "", out}, nil
	})
}

// submits serves a row whose requests become operations of a kind. fill copies the parameters.
func submits[In interface {
	Request(dataset.OpKind) api.Request
}](h handlers, e endpoint.Of[In, api.Outcome], kind dataset.OpKind, fill func(*In, *api.Request)) {
	bindWork(h, e, func(ctx context.Context, in *In) (api.Outcome, string, error) {
		req := (*in).Request(kind)
		fill(in, &req)
		return h.submit(ctx, req)
	})
}

func (h handlers) submit(ctx context.Context, req api.Request) (api.Outcome, string, error) {
	if req.ID == uuid.Nil {
		req.ID = uuid.New()
	}
	changeOf(ctx).noteRequest(req)
	out, err := h.Service.Submit(ctx, req)
	if req.DryRun { // its operation is not recorded, so nobody can follow it
		return out, "", err
	}
	return out, pendingLocation(out.Operation), err
}

// pendingLocation returns the location of an operation. It is empty if there is none, or if it has ended.
func pendingLocation(op *dataset.Operation) string {
	if op == nil || op.State.Final() {
		return ""
	}
	return wire.OperationLocation(op.ID)
}

// untilStop returns a handler whose context ends when the server stops. It is for work that takes longer than a
// shutdown waits, and changes nothing by being interrupted.
func untilStop[In, Out any](f func(context.Context, *In) (Out, error)) func(context.Context, *In) (Out, error) {
	return func(ctx context.Context, in *In) (Out, error) {
		ctx, end := waiting(ctx)
		out, err := f(ctx, in)
		return out, end(err)
	}
}

// add registers an endpoint. Its errors are answered as problems.
func add[In, Out any](h handlers, e endpoint.Endpoint, f func(context.Context, *In) (*Out, error), s ...setting) {
	op := huma.Operation{
		Method:      e.Method,
		Path:        e.Path,
		OperationID: e.ID,
		Tags:        []string{e.Tag},
		Summary:     e.Summary,
		Description: e.Text,
		Responses:   openapi.ProblemResponses(),
		// A read deadline would stay on the connection after the body, and end the context of a handler that runs
		// longer.
		BodyReadTimeout: -1,
		Middlewares:     huma.Middlewares{admit(e)},
	}
	if e.Access.Nodes == endpoint.OwnNode {
		// The body is only decoded, and not checked against the schema: agents are programs of this module, and the
		// check would cost more than the rest of the call.
		op.SkipValidateBody, op.MaxBodyBytes = true, maxReportBytes
	}
	for _, set := range s {
		set(&op)
	}
	huma.Register(h.api, op, func(ctx context.Context, in *In) (out *Out, err error) {
		if err = h.missing; err == nil {
			out, err = f(ctx, in)
		}
		if err != nil {
			changeOf(ctx).noteError(err)
			p := wire.ProblemOf(err)
			p.Request = requestid.Of(ctx)
			return nil, p
		}
		return out, nil
	})
	if e.Starts {
		done, accepted := op.Responses["200"], openapi.Accepted()
		done.Headers = nil
		accepted.Content = maps.Clone(done.Content)
		op.Responses["202"] = accepted
	}
}

// formats returns the only format of the API, JSON. Unlike the format of huma, it refuses unknown fields even if the
// schema is not checked. It encodes the whole answer before it writes, so that a write to a closed connection is not
// reported as an encoding error.
func formats() map[string]huma.Format {
	buffers := &sync.Pool{New: func() any { return new(bytes.Buffer) }}
	f := huma.Format{
		Marshal: func(w io.Writer, v any) error {
			buf := buffers.Get().(*bytes.Buffer)
			defer func() {
				if buf.Cap() <= 256<<10 { // do not keep the memory of one large list
					buf.Reset()
					buffers.Put(buf)
				}
			}()
			enc := json.NewEncoder(buf)
			enc.SetEscapeHTML(false)
			if err := enc.Encode(v); err != nil {
				return err
			}
			_, _ = w.Write(buf.Bytes()) // if this fails, the peer is gone
			return nil
		},
		Unmarshal: wire.DecodeStrict,
	}
	return map[string]huma.Format{"application/json": f, "json": f}
}

// translate is a transformer of huma. It converts errors of huma itself, about requests that never reached a handler,
// into problems.
func translate(hc huma.Context, _ string, v any) (any, error) {
	e, ok := v.(*huma.ErrorModel)
	if !ok {
		return v, nil
	}
	kind := dataset.ErrInvalid
	if e.Status >= http.StatusInternalServerError {
		kind = dataset.ErrInternal
	}
	p := wire.NewProblem(kind, e.Status, validationLine(e))
	changeOf(hc.Context()).noteError(p.Err())
	p.Request = requestid.Of(hc.Context())
	return p, nil
}

// maxFaults limits the answer to an invalid body.
const maxFaults = 5

func validationLine(e *huma.ErrorModel) string {
	if len(e.Errors) == 0 {
		return oneLine(e.Detail)
	}
	var lines []string
	for _, d := range e.Errors {
		lines = append(lines, describeFault(d))
	}
	slices.Sort(lines) // huma returns them in random order
	if more := len(lines) - maxFaults; more > 0 {
		lines = append(lines[:maxFaults], fmt.Sprintf("and %d more", more))
	}
	return "bad request: " + strings.Join(lines, "; ")
}

func describeFault(d *huma.ErrorDetail) string {
	where, message := dataset.Clip(oneLine(d.Location)), dataset.Clip(oneLine(d.Message))
	switch {
	case message == validation.MsgUnexpectedProperty:
		return fmt.Sprintf("unknown field %s", where)
	case strings.HasPrefix(message, huma.ErrUnknownContentType.Error()):
		return message + " (want application/json)"
	case where == "":
		return message
	}
	return where + ": " + message
}

func oneLine(s string) string { return strings.Join(strings.Fields(s), " ") }

// OpenAPI returns the document that describes the API. It is always the same: its YAML is docs/openapi.yaml.
// After a change of the API run
//
//	go generate ./control/api/openapi
func OpenAPI() *openapi.Document {
	return register(http.NewServeMux(), Deps{})
}

func serveDocument(contentType string, render func() ([]byte, error)) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) {
		text, err := render()
		if err != nil {
			wire.ProblemOf(err).Write(w)
			return
		}
		w.Header().Set("Content-Type", contentType)
		_, _ = w.Write(text) // the peer may be gone
	}
}
