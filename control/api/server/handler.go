// Package server serves the HTTP API of Drover. It decides who may use an endpoint (access.go), limits the resources
// that one peer may use (limits.go), collects the lines of the audit log, and passes requests to the implementations
// of the interfaces in package api. Only the daemon (cmd/drover/internal/daemon) and tests use it. The daemon makes a
// Handler for control, for an agent, or for both, and serves it with New. On a single host, it gives the agent an
// Audited service.
//
// Every request goes through the frontHandler, which identifies the peer, then through the routes, the rule of the
// endpoint and its limits, to a handler. Errors are answered as problem details, see package wire. The only state is
// the number of requests in progress: a requestCounter is protected by a mutex, and the joins are counted in a channel.
// To add an endpoint, add a row to package route, a rule to access.go, a handler to the file of its noun, and, unless
// the handler describes it, a text to package openapi (endpoints.go).
package server

import (
	"context"
	"maps"
	"net/http"
	"time"

	"github.com/danielgtaylor/huma/v2"
	"github.com/danielgtaylor/huma/v2/adapters/humago"
	"github.com/sirupsen/logrus"

	"github.com/droverhq/drover/control/api"
	"github.com/droverhq/drover/control/api/openapi"
	"github.com/droverhq/drover/control/api/route"
	"github.com/droverhq/drover/control/api/wire"
	"github.com/droverhq/drover/internal/requestid"
)

// Deps is what the handlers depend on.
type Deps struct {
	Service         api.Service
	Local           api.Local    // nil without an agent: its endpoints return ErrUnsupported
	Backup          api.Backup   // nil if the store cannot be copied: its endpoint returns ErrUnsupported
	Members         api.Members  // nil without a cluster: its endpoints return ErrUnsupported
	CheckCollecting func() error // fails unless a recovery is collecting the reports of nodes; if nil, it never fails
	Metrics         http.Handler // if nil, there is no /metrics
	Version         string       // of this program, for the header Server; empty: none
	Node            string       // name of the node on which this program is the agent; empty: it is not an agent
	// Peer identifies the peer of a TLS connection. If nil, no request over TLS is allowed. A caller over a unix
	// socket, or in this process, may use all endpoints. Over other connections without TLS, no request is allowed.
	Peer Peer
	// Audit receives every change after its end, and every refused one. It may be nil, and must be safe for
	// concurrent use.
	Audit func(api.Change)
	// Panicked receives the request, the value and the stack of a handler's panic. It may be nil, and must be
	// safe for concurrent use.
	Panicked func(ctx context.Context, request string, value any, stack []byte)
	// Log receives a line for each change that a user or an engine requested, and for failures that no caller logs:
	// see logEnd. If nil, nothing is logged.
	Log logrus.FieldLogger
	// Served receives each request after its end: the pattern of its route ("" if it reached none), the status and the
	// duration. It may be nil, and must be safe for concurrent use.
	Served func(pattern string, status int, took time.Duration)
}

// Handler returns the API, version 1, with /metrics beside it. It is safe for concurrent use. Every error is
// answered with a Problem, also for an unknown endpoint, a wrong method or a handler that panicked. If the answer has
// already begun, a panic breaks the connection instead. A panic ends only its own request. The handler never redirects.
func Handler(d Deps) http.Handler {
	mux := http.NewServeMux()
	document := register(mux, d)
	handlePlain(mux, "GET /v1/openapi.json", "get-openapi", "read what the API is",
		serveDocument("application/openapi+json", document.JSON))
	handlePlain(mux, "GET /v1/openapi.yaml", "get-openapi", "read what the API is",
		serveDocument("application/openapi+yaml", document.YAML))
	if d.Metrics != nil {
		handlePlain(mux, "GET /metrics", "get-metrics", "read the metrics", d.Metrics)
	}
	return &frontHandler{
		next:     newRoutes(mux),
		version:  d.Version,
		peer:     d.Peer,
		audit:    d.Audit,
		panicked: d.Panicked,
		log:      d.Log,
		served:   d.Served,
		patience: anonymousTime,
	}
}

// register adds the endpoints to mux and returns the document that describes them.
func register(mux humago.Mux, d Deps) *openapi.Document {
	doc := openapi.New()
	registerOn(mux, d, doc)
	return openapi.Complete(doc)
}

// registerOn adds the endpoints to mux, and their descriptions to doc.
func registerOn(mux humago.Mux, d Deps, doc *huma.OpenAPI) {
	if d.Local == nil {
		d.Local = unsupported{}
	}
	if d.Backup == nil {
		d.Backup = unsupported{}
	}
	if d.Members == nil {
		d.Members = unsupported{}
	}
	h := handlers{
		Deps: d,
		api: humago.New(mux, huma.Config{
			OpenAPI: doc, Formats: formats(), DefaultFormat: "application/json",
			RejectUnknownQueryParameters: true,
			Transformers:                 []huma.Transformer{translate, unwrapList},
		}),
	}
	h.volumes()
	h.changes()
	h.backups()
	h.names()
	h.transfers()
	h.snapshots()
	h.trash()
	h.profiles()
	h.pools()
	h.repositories()
	h.operations()
	h.events()
	h.nodes()
	h.members()
	h.recovery()
	h.local()
}

type handlers struct {
	Deps
	api huma.API
}

// answer is a response with a JSON body.
type answer[T any] struct{ Body T }

func reply[T any](v T, err error) (*answer[T], error) {
	if err != nil {
		return nil, err
	}
	return &answer[T]{v}, nil
}

// add registers one endpoint. Its errors are answered as problems.
func add[I, O any](h handlers, op huma.Operation, f func(context.Context, *I) (*O, error)) {
	if op.Responses == nil {
		op.Responses = map[string]*huma.Response{}
	}
	maps.Copy(op.Responses, openapi.ProblemResponses())
	// A read deadline would stay on the connection after the body, and end the context of a handler that runs
	// longer.
	if op.BodyReadTimeout == 0 {
		op.BodyReadTimeout = -1
	}
	op.Middlewares = append(huma.Middlewares{admit(op)}, op.Middlewares...)
	huma.Register(h.api, op, func(ctx context.Context, in *I) (*O, error) {
		out, err := f(ctx, in)
		if err != nil {
			changeOf(ctx).noteError(err)
			p := wire.ProblemOf(err)
			p.Request = requestid.Of(ctx)
			return nil, p
		}
		return out, nil
	})
	if w, ok := any(*new(O)).(interface {
		describe(map[string]*huma.Response)
	}); ok {
		w.describe(op.Responses)
	}
}

// endpoint describes an endpoint for the OpenAPI document. The tag is the group in which the document lists it.
func endpoint(r route.Route, tag, summary, description string) huma.Operation {
	return huma.Operation{
		Method:      r.Method,
		Path:        r.Path,
		OperationID: r.ID,
		Tags:        []string{tag},
		Summary:     summary,
		Description: description,
	}
}

// agents describes an endpoint for agents. The body is only decoded, and not checked against the schema: agents are
// programs of this module, and the check would cost more than the rest of the call.
func agents(r route.Route, summary string) huma.Operation {
	op := endpoint(r, "agents", summary, "")
	op.SkipValidateBody = true
	op.MaxBodyBytes = maxReportBytes
	return op
}
