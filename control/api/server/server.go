// Package server serves the HTTP API of Drover. It checks who may use an endpoint (access.go), limits the resources
// that one peer may use (fronthandler.go), collects the lines of the audit log, and passes requests to the
// implementations of the interfaces in package api.
//
// Every request goes through the frontHandler, which identifies the peer, then through the routes, the access rule of
// the endpoint and its limits, to a handler. Errors are answered as problem details, see package wire. The only state
// is the number of requests in progress: a requestCounter is protected by a mutex, and the joins are counted in a
// channel. A new endpoint is a row of package endpoint, and a handler here: in volumes.go, with
// snapshots and the trash, in operations.go, or in nodes.go, with pools, repositories, backups and doctor.
package server

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/danielgtaylor/huma/v2"
	"github.com/danielgtaylor/huma/v2/adapters/humago"
	"github.com/sirupsen/logrus"

	"github.com/droverhq/drover/control/api"
	"github.com/droverhq/drover/control/api/endpoint"
	"github.com/droverhq/drover/control/api/openapi"
	"github.com/droverhq/drover/control/api/wire"
	"github.com/droverhq/drover/dataset"
)

// New returns an HTTP server for the handler that limits how long a peer can block it. The duration of whole requests
// and answers is not limited, because exports and event streams take long. The caller adds listeners, TLS and an
// error log, and must not change BaseContext and ConnContext. When the server is shut down, requests that only wait
// for an event end at once.
func New(handler http.Handler) *http.Server {
	stopping, stop := context.WithCancel(context.Background())
	base := context.WithValue(context.Background(), stoppingKey{}, stopping)
	s := &http.Server{
		Handler:           handler,
		BaseContext:       func(net.Listener) context.Context { return base },
		ConnContext:       withUser,
		ReadHeaderTimeout: 10 * time.Second,
		IdleTimeout:       2 * time.Minute,
		MaxHeaderBytes:    64 << 10,
	}
	s.RegisterOnShutdown(stop)
	return s
}

type stoppingKey struct{}

// waiting returns the context for a request that waits. It ends with ctx, and when the server is shut down. The
// handler must call the returned function with the error of the wait. The function releases the context. If the
// shutdown ended the wait, it returns an error that says so.
func waiting(ctx context.Context) (context.Context, func(error) error) {
	stopping, ok := ctx.Value(stoppingKey{}).(context.Context)
	ctx, cancel := context.WithCancelCause(ctx)
	forget := func() bool { return true }
	if ok {
		forget = context.AfterFunc(stopping, func() {
			cancel(dataset.Errorf(dataset.ErrUnavailable, "drover is stopping (try again after its restart)"))
		})
	}
	return ctx, func(err error) error {
		forget()
		if cause := context.Cause(ctx); err != nil && errors.Is(cause, dataset.ErrUnavailable) {
			err = cause
		}
		cancel(nil)
		return err
	}
}

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

// routes serves the endpoints of a mux, and answers all other requests with a problem.
//
// http.ServeMux redirects a path that has "." or ".." segments, or empty ones, to the path without them. That
// path is another endpoint: DELETE /v1/trash/. would become DELETE /v1/trash. So routes refuses such a path
// before the mux sees it, even if it is escaped, since a proxy may unescape it.
type routes struct{ mux *http.ServeMux }

// newRoutes returns the routes of a mux, which must not have a pattern for all paths yet.
func newRoutes(mux *http.ServeMux) *routes {
	rt := &routes{mux}
	mux.HandleFunc(allPaths, rt.unknown)
	return rt
}

const allPaths = "/"

func (rt *routes) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if !plainPath(r.URL.Path) {
		line := fmt.Sprintf("bad path %q: it has an empty segment, or one of dots alone (no name is empty, "+
			". or ..)", dataset.Clip(r.URL.Path))
		wire.NewProblem(dataset.ErrInvalid, http.StatusBadRequest, line).Write(w)
		return
	}
	rt.mux.ServeHTTP(w, r)
}

// plainPath reports whether an unescaped path begins with a slash, has no "." or ".." segments, and has no empty
// segment before its last one.
func plainPath(path string) bool {
	rest, rooted := strings.CutPrefix(path, "/")
	segments := strings.Split(rest, "/")
	for i, s := range segments {
		if s == "." || s == ".." || s == "" && i < len(segments)-1 {
			return false
		}
	}
	return rooted
}

// unknown answers a request that no endpoint accepts. The status is 405 if the path belongs to an endpoint. The
// code is not not_found: a client must not mistake a wrong path for a volume that does not exist.
func (rt *routes) unknown(w http.ResponseWriter, r *http.Request) {
	status, asked := http.StatusNotFound, dataset.Clip(r.Method)+" "+dataset.Clip(r.URL.Path)
	line := fmt.Sprintf("no such endpoint: %s (GET /v1/openapi.yaml lists all endpoints)", asked)
	if allowed := rt.methods(r); len(allowed) > 0 {
		status = http.StatusMethodNotAllowed
		line = fmt.Sprintf("wrong method: %s (this path takes %s)", asked, strings.Join(allowed, ", "))
		w.Header().Set("Allow", strings.Join(allowed, ", "))
	}
	wire.NewProblem(dataset.ErrInvalid, status, line).Write(w)
}

// methods lists the methods that the endpoints at the path of a request accept, sorted.
func (rt *routes) methods(r *http.Request) []string {
	candidates := []string{http.MethodDelete, http.MethodGet, http.MethodHead, http.MethodPatch, http.MethodPost,
		http.MethodPut}
	return slices.DeleteFunc(candidates, func(method string) bool {
		_, pattern := rt.mux.Handler(&http.Request{Method: method, Host: r.Host, URL: r.URL})
		return pattern == allPaths
	})
}
