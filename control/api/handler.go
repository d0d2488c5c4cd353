package api

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"runtime/debug"

	"github.com/danielgtaylor/huma/v2"
	"github.com/danielgtaylor/huma/v2/adapters/humago"

	"github.com/droverhq/drover/dataset"
)

// Deps is what the handlers are made of.
type Deps struct {
	Service Service
	Local   Local        // nil where no agent runs: its endpoints fail with ErrUnsupported
	Backup  Backup       // nil where the store cannot be copied: likewise
	Metrics http.Handler // nil: no /metrics
	Version string       // of the program, for the Server header; empty: not said
	// Panicked is told which request made a handler panic, with what and where.
	// Nil: nobody is. It must be safe for concurrent use.
	Panicked func(request string, value any, stack []byte)
}

// Handler returns the API, version 1, with /metrics beside it. It is safe for
// concurrent use. Every error, also that of an unknown endpoint or of a handler
// that panicked, is a Problem; a panic takes down nothing but its request.
func Handler(d Deps) http.Handler {
	mux := http.NewServeMux()
	document := register(mux, d)
	mux.HandleFunc("GET /v1/openapi.json", document.serve("application/openapi+json", document.json))
	mux.HandleFunc("GET /v1/openapi.yaml", document.serve("application/openapi+yaml", document.yaml))
	if d.Metrics != nil {
		mux.Handle("GET /metrics", d.Metrics)
	}
	mux.HandleFunc("/", unknownEndpoint)
	return &guard{next: mux, server: serverName(d.Version), panicked: d.Panicked}
}

func serverName(version string) string {
	if version == "" {
		return ""
	}
	return "drover/" + version
}

// unknownEndpoint does not say not_found: a client must not take a wrong path
// for a volume that is not there.
func unknownEndpoint(w http.ResponseWriter, r *http.Request) {
	line := fmt.Sprintf("no such endpoint: %s %s (GET /v1/openapi.yaml lists those there are)", dataset.Clip(r.Method), dataset.Clip(r.URL.Path))
	problem(dataset.ErrInvalid, http.StatusNotFound, line).write(w)
}

// register puts the endpoints on mux and returns the document that describes
// them.
func register(mux humago.Mux, d Deps) *document {
	if d.Local == nil {
		d.Local = absent{}
	}
	if d.Backup == nil {
		d.Backup = absent{}
	}
	doc := describe()
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
	h.local()
	return newDocument(doc)
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
	op.BodyReadTimeout = -1
	huma.Register(h.api, op, func(ctx context.Context, in *I) (*O, error) {
		out, err := f(ctx, in)
		if err != nil {
			return nil, ProblemOf(err)
		}
		return out, nil
	})
}

// guard answers for handlers that panic.
type guard struct {
	next     http.Handler
	server   string
	panicked func(request string, value any, stack []byte)
}

func (g *guard) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if g.server != "" {
		w.Header().Set("Server", g.server)
	}
	watched := &watchedWriter{ResponseWriter: w}
	defer func() {
		v := recover()
		if v == nil {
			return
		}
		if aborted(v) {
			panic(v)
		}
		if g.panicked != nil {
			g.panicked(dataset.Clip(r.Method)+" "+dataset.Clip(r.URL.Path), v, debug.Stack())
		}
		if watched.wrote {
			panic(http.ErrAbortHandler) // the peer must not take half an answer for a whole one
		}
		problem(dataset.ErrInternal, http.StatusInternalServerError, "the server made a mistake with this request (its log says which)").write(w)
	}()
	g.next.ServeHTTP(watched, r)
}

// aborted reports whether a handler panicked to break its connection.
func aborted(v any) bool {
	err, ok := v.(error)
	return ok && errors.Is(err, http.ErrAbortHandler)
}

// watchedWriter knows whether an answer has begun.
type watchedWriter struct {
	http.ResponseWriter
	wrote bool
}

func (w *watchedWriter) WriteHeader(status int) {
	w.wrote = true
	w.ResponseWriter.WriteHeader(status)
}

func (w *watchedWriter) Write(b []byte) (int, error) {
	w.wrote = true
	return w.ResponseWriter.Write(b)
}

// Unwrap lets http.ResponseController reach the connection.
func (w *watchedWriter) Unwrap() http.ResponseWriter { return w.ResponseWriter }
