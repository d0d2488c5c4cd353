package api

import (
	"context"
	"errors"
	"net/http"
	"runtime/debug"
	"time"

	"github.com/danielgtaylor/huma/v2"
	"github.com/danielgtaylor/huma/v2/adapters/humago"

	"github.com/droverhq/drover/dataset"
	"github.com/droverhq/drover/internal/clock"
	"github.com/droverhq/drover/internal/pki"
)

// Deps is what the handlers are made of.
type Deps struct {
	Service Service
	Local   Local        // nil where no agent runs: its endpoints fail with ErrUnsupported
	Backup  Backup       // nil where the store cannot be copied: likewise
	Members Members      // nil where there is no cluster: likewise
	Gathers func() error // fails unless what nodes hold is taken in, before that is read; nil: it is
	Metrics http.Handler // nil: no /metrics
	Version string       // of the program, for the Server header; empty: not said
	// Peer says who asks over TLS; nil: nobody may. Who asks over a unix socket, or in
	// this process, may do everything; without TLS over anything else, nothing.
	Peer Peer
	// Audit is told of each change when it has ended, and of each that was refused; nil:
	// nobody is. It must be safe for concurrent use.
	Audit func(Change)
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
		document.serve("application/openapi+json", document.json))
	plain(mux, "GET /v1/openapi.yaml", "get-openapi", "read what the API is",
		document.serve("application/openapi+yaml", document.yaml))
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
func register(mux humago.Mux, d Deps) *document {
	doc := describe()
	registerOn(mux, d, doc)
	return newDocument(doc)
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
			return nil, ProblemOf(err)
		}
		return out, nil
	})
}

// guard finds out who asks, and answers for handlers that panic.
type guard struct {
	next     http.Handler
	version  string
	peer     Peer
	audit    func(Change)
	panicked func(request string, value any, stack []byte)
	patience time.Duration // with who is not known
	crowd    crowd
}

func (g *guard) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if name := productName(g.version); name != "" {
		w.Header().Set("Server", name)
	}
	watched := &watchedWriter{ResponseWriter: w}
	who, err := g.identify(r)
	ctx, change := withChange(WithPrincipal(r.Context(), who), who, r)
	defer func() { change.ends(watched.status, g.audit) }()
	switch {
	case err != nil:
		g.hurry(w)
	case spent(r):
		w.Header().Set("Connection", "close")
	}
	if err = g.known(r, who, err); err == nil && who.Kind != "" {
		var leave func()
		if leave, err = g.crowd.enter(who.Identity, "requests", requestsOnce, 0); err == nil {
			defer leave()
		}
	}
	if err != nil {
		change.failed(err)
		ProblemOf(err).write(watched)
		return
	}
	g.serve(watched, r.WithContext(ctx))
}

// spent reports whether a connection should be made anew, since it shows the certificate
// that its peer had when it was made: one that is to be renewed by now.
func spent(r *http.Request) bool {
	if r.TLS == nil || len(r.TLS.PeerCertificates) == 0 {
		return false
	}
	return clock.System{}.Now().After(pki.RenewAt(r.TLS.PeerCertificates[0]))
}

// known fails for who may ask nothing at all. Who has no certificate yet may go on to
// the endpoint that gives one.
func (g *guard) known(r *http.Request, who Principal, err error) error {
	switch {
	case errors.Is(err, pki.ErrNoCertificate) && r.URL.Path == joinPath:
		return nil
	case err != nil:
		return err
	case who.Kind == pki.Node || who.Kind == pki.Control:
		return Compatible(g.version, versionIn(r.UserAgent()), who.String())
	}
	return nil
}

func (g *guard) serve(watched *watchedWriter, r *http.Request) {
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
		problem(dataset.ErrInternal, http.StatusInternalServerError,
			"the server made a mistake with this request (its log says which)").write(watched)
	}()
	g.next.ServeHTTP(watched, r)
}

// aborted reports whether a handler panicked to break its connection.
func aborted(v any) bool {
	err, ok := v.(error)
	return ok && errors.Is(err, http.ErrAbortHandler)
}

// watchedWriter knows whether an answer has begun, and which.
type watchedWriter struct {
	http.ResponseWriter
	wrote  bool
	status int
}

func (w *watchedWriter) WriteHeader(status int) {
	w.wrote, w.status = true, status
	w.ResponseWriter.WriteHeader(status)
}

func (w *watchedWriter) Write(b []byte) (int, error) {
	if !w.wrote {
		w.wrote, w.status = true, http.StatusOK
	}
	return w.ResponseWriter.Write(b)
}

// Unwrap lets http.ResponseController reach the connection.
func (w *watchedWriter) Unwrap() http.ResponseWriter { return w.ResponseWriter }
