// Package server serves the HTTP API of Drover. It decides who may use an endpoint (access.go), limits what one peer
// may use (bounds.go), collects the lines of the audit log, and passes requests to the implementations of the
// interfaces in package api.
//
// Every request goes through the guard, which identifies the peer, then through the routes, the rule of the endpoint
// and its limits, to a handler. Errors are answered as problem details, see package wire.
package server

import (
	"context"
	"net/http"

	"github.com/danielgtaylor/huma/v2"
	"github.com/danielgtaylor/huma/v2/adapters/humago"

	"github.com/droverhq/drover/control/api"
	"github.com/droverhq/drover/control/api/openapi"
	"github.com/droverhq/drover/control/api/wire"
)

// Deps is what the handlers are made of.
type Deps struct {
	Service api.Service
	Local   api.Local    // nil where no agent runs: its endpoints fail with ErrUnsupported
	Backup  api.Backup   // nil where the store cannot be copied: likewise
	Members api.Members  // nil where there is no cluster: likewise
	Gathers func() error // fails unless what nodes hold is taken in, before that is read; nil: it is
	Metrics http.Handler // nil: no /metrics
	Version string       // of the program, for the Server header; empty: not said
	// Peer says who asks over TLS; nil: nobody may. Who asks over a unix socket, or in
	// this process, may do everything; without TLS over anything else, nothing.
	Peer Peer
	// Audit is told of each change when it has ended, and of each that was refused; nil:
	// nobody is. It must be safe for concurrent use.
	Audit func(api.Change)
	// Panicked is told which request made a handler panic, with what and where.
	// Nil: nobody is. It must be safe for concurrent use.
	Panicked func(request string, value any, stack []byte)
}

// Handler returns the API, version 1, with /metrics beside it. It is safe for
// concurrent use. Every error, also that of an unknown endpoint, of a wrong method
// or of a handler that panicked, is a Problem; a panic takes down nothing but its
// request. It never redirects.
func Handler(d Deps) http.Handler {
	mux := http.NewServeMux()
	document := register(mux, d)
	plain(mux, "GET /v1/openapi.json", "get-openapi", "read what the API is",
		serveDocument("application/openapi+json", document.JSON))
	plain(mux, "GET /v1/openapi.yaml", "get-openapi", "read what the API is",
		serveDocument("application/openapi+yaml", document.YAML))
	if d.Metrics != nil {
		plain(mux, "GET /metrics", "get-metrics", "read the metrics", d.Metrics)
	}
	return &guard{
		next:     newRoutes(mux),
		version:  d.Version,
		peer:     d.Peer,
		audit:    d.Audit,
		panicked: d.Panicked,
		patience: strangerTime,
	}
}

// register puts the endpoints on mux and returns the document that describes
// them.
func register(mux humago.Mux, d Deps) *openapi.Document {
	doc := openapi.New()
	registerOn(mux, d, doc)
	return openapi.Complete(doc)
}

// registerOn puts the endpoints on mux and adds their descriptions to doc.
func registerOn(mux humago.Mux, d Deps, doc *huma.OpenAPI) {
	if d.Local == nil {
		d.Local = absent{}
	}
	if d.Backup == nil {
		d.Backup = absent{}
	}
	if d.Members == nil {
		d.Members = absent{}
	}
	h := handlers{
		Deps: d,
		api: humago.New(mux, huma.Config{
			OpenAPI: doc, Formats: formats(), DefaultFormat: "application/json",
			RejectUnknownQueryParameters: true,
			Transformers:                 []huma.Transformer{translate},
		}),
	}
	h.volumes()
	h.changes()
	h.transfers()
	h.snapshots()
	h.trash()
	h.profiles()
	h.pools()
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

// answer is a response with a body of JSON.
type answer[T any] struct{ Body T }

func reply[T any](v T, err error) (*answer[T], error) {
	if err != nil {
		return nil, err
	}
	return &answer[T]{v}, nil
}

// add registers one endpoint whose errors come out as problems.
func add[I, O any](h handlers, op huma.Operation, f func(context.Context, *I) (*O, error)) {
	// A deadline for reading the body would stay on the connection and end the
	// context of a handler that works longer than that.
	if op.BodyReadTimeout == 0 {
		op.BodyReadTimeout = -1
	}
	op.Middlewares = append(huma.Middlewares{admit(op)}, op.Middlewares...)
	huma.Register(h.api, op, func(ctx context.Context, in *I) (*O, error) {
		out, err := f(ctx, in)
		if err != nil {
			changeOf(ctx).failed(err)
			return nil, wire.ProblemOf(err)
		}
		return out, nil
	})
}

// page answers with a list; an empty one is [] and not null.
func page[T any](l api.List[T], err error) (*answer[api.List[T]], error) {
	if l.Items == nil {
		l.Items = []T{}
	}
	return reply(l, err)
}

// all answers with a list that is never long.
func all[T any](items []T, err error) (*answer[api.List[T]], error) {
	return page(api.List[T]{Items: items}, err)
}

func get(path, id, tag, summary string) huma.Operation {
	return huma.Operation{Method: http.MethodGet, Path: path, OperationID: id, Tags: []string{tag}, Summary: summary}
}

func post(path, id, tag, summary, description string) huma.Operation {
	return huma.Operation{
		Method:      http.MethodPost,
		Path:        path,
		OperationID: id,
		Tags:        []string{tag},
		Summary:     summary,
		Description: description,
	}
}

func del(path, id, tag, summary, description string) huma.Operation {
	return huma.Operation{
		Method:      http.MethodDelete,
		Path:        path,
		OperationID: id,
		Tags:        []string{tag},
		Summary:     summary,
		Description: description,
	}
}

// agents is an endpoint for agents. They are programs of this module, so the
// decoder alone looks at their bodies: the schema would cost more than the call.
func agents(what, id, summary string) huma.Operation {
	op := post("/v1/nodes/{node}/"+what, id, "agents", summary, "")
	op.SkipValidateBody = true
	op.MaxBodyBytes = maxReport
	return op
}
