// Package server serves the HTTP API of Drover. It checks who may use an endpoint (access.go), limits the resources
// that one peer may use (limits.go), collects the lines of the audit log, and passes requests to the implementations
// of the interfaces in package api.
//
// Every request goes through the frontHandler, which identifies the peer, then through the routes, the access rule of
// the endpoint and its limits, to a handler. Errors are answered as problem details, see package wire. The only state
// is the number of requests in progress: a requestCounter is protected by a mutex, and the joins are counted in a
// channel. A new endpoint is a row of package endpoint, and a handler here in the file of its noun.
package server

import (
	"context"
	"net/http"
	"time"

	"github.com/danielgtaylor/huma/v2"
	"github.com/danielgtaylor/huma/v2/adapters/humago"
	"github.com/sirupsen/logrus"

	"github.com/droverhq/drover/control/api"
	"github.com/droverhq/drover/control/api/endpoint"
	"github.com/droverhq/drover/control/api/openapi"
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
	handlePlain(mux, "GET /v1/openapi.json", endpoint.GetOpenAPI,
		serveDocument("application/openapi+json", document.JSON))
	handlePlain(mux, "GET /v1/openapi.yaml", endpoint.GetOpenAPI,
		serveDocument("application/openapi+yaml", document.YAML))
	if d.Metrics != nil {
		handlePlain(mux, "GET /metrics", endpoint.GetMetrics, d.Metrics)
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
	h := handlers{
		Deps: d,
		api: humago.New(mux, huma.Config{
			OpenAPI: doc, Formats: formats(), DefaultFormat: "application/json",
			RejectUnknownQueryParameters: true,
			Transformers:                 []huma.Transformer{translate, unwrapList},
		}),
	}
	h.volumes()
	h.snapshots()
	h.trash()
	h.operations()
	h.repositories()
	h.nodes()
	h.agents()
	h.unless(d.Local == nil, errHostOnly).host()
	h.unless(d.Backup == nil, errStoreInConsul).storeBackup()
	h.unless(d.Members == nil, errClusterOnly).members()
}
