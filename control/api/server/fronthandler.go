package server

import (
	"context"
	"errors"
	"net/http"
	"runtime/debug"
	"sync"
	"time"

	"github.com/danielgtaylor/huma/v2"
	"github.com/danielgtaylor/huma/v2/adapters/humago"
	"github.com/sirupsen/logrus"

	"github.com/droverhq/drover/control/api"
	"github.com/droverhq/drover/control/api/endpoint"
	"github.com/droverhq/drover/control/api/wire"
	"github.com/droverhq/drover/dataset"
	"github.com/droverhq/drover/internal/clock"
	"github.com/droverhq/drover/internal/failurelog"
	"github.com/droverhq/drover/internal/pki"
	"github.com/droverhq/drover/internal/requestid"
)

// frontHandler is the outermost handler. It identifies the caller, limits its requests, completes the audit log, and
// answers if a handler panics.
type frontHandler struct {
	next     http.Handler
	version  string
	peer     Peer
	audit    func(api.Change)
	panicked func(ctx context.Context, request string, value any, stack []byte)
	log      logrus.FieldLogger
	served   func(pattern string, status int, took time.Duration)
	patience time.Duration // with the body of a caller that is not identified
	requests requestCounter
}

func (g *frontHandler) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if name := wire.ProductName(g.version); name != "" {
		w.Header().Set("Server", name)
	}
	ctx, knownAt := api.WithKnownAt(r.Context())
	watched := &watchedWriter{ResponseWriter: w, knownAt: knownAt}
	who, err := g.identify(r)
	ctx = withBy(withRequestID(api.WithPrincipal(ctx, who), who, r.Header), who, r.Header)
	requestid.SetHeader(ctx, w.Header())
	ctx, change := withChange(ctx, who, r)
	defer func() {
		change.finish(watched.status, g.audit)
		g.logEnd(ctx, who, change, watched.status)
	}()
	r = r.WithContext(ctx) // the mux sets the pattern of the route in it
	if g.served != nil {
		began := clock.System{}.Steady()
		defer func() { g.served(r.Pattern, watched.status, clock.System{}.Steady()-began) }()
	}
	switch {
	case err != nil:
		// The body of a caller that is not identified must arrive in time.
		w.Header().Set("Connection", "close")
		// This fails only for a writer that is not a connection, and needs no limit.
		_ = http.NewResponseController(w).SetReadDeadline(clock.Deadline(g.patience))
	case certificateIsOld(r):
		w.Header().Set("Connection", "close")
	}
	if err = g.checkCaller(r, who, err); err == nil && who.Kind != "" {
		var leave func()
		if leave, err = g.requests.begin(who.Identity, "requests", maxRequests, 0); err == nil {
			defer leave()
		}
	}
	if err != nil {
		change.noteError(err)
		wire.ProblemOf(err).Write(watched)
		return
	}
	g.serve(watched, r)
}

// certificateIsOld reports whether the connection should be closed after this request. A connection is old if the
// certificate with which the peer opened it is due for renewal: the connection would never use the renewed
// certificate.
func certificateIsOld(r *http.Request) bool {
	if r.TLS == nil || len(r.TLS.PeerCertificates) == 0 {
		return false
	}
	return clock.System{}.Now().After(pki.RenewAt(r.TLS.PeerCertificates[0]))
}

// checkCaller returns an error for a caller that must not use any endpoint. A caller without a certificate may use the
// endpoint that issues certificates. Nodes and control must have a compatible version.
func (g *frontHandler) checkCaller(r *http.Request, who api.Principal, err error) error {
	switch {
	case errors.Is(err, pki.ErrNoCertificate) && r.URL.Path == endpoint.Join.Path:
		return nil
	case err != nil:
		return err
	case who.Kind == pki.Node || who.Kind == pki.Control:
		return api.Compatible(g.version, wire.VersionIn(r.UserAgent()), who.String())
	}
	return nil
}

func (g *frontHandler) serve(watched *watchedWriter, r *http.Request) {
	defer func() {
		v := recover()
		if v == nil {
			return
		}
		if wire.IsAbort(v) {
			panic(v)
		}
		if g.panicked != nil {
			g.panicked(r.Context(), dataset.Clip(r.Method)+" "+dataset.Clip(r.URL.Path), v, debug.Stack())
		}
		err := dataset.Errorf(dataset.ErrInternal, "internal error of the server (see its log)")
		changeOf(r.Context()).noteError(failurelog.MarkLogged(err))
		if watched.wrote {
			panic(http.ErrAbortHandler) // the peer must not take half an answer for a complete one
		}
		wire.ProblemOf(err).Write(watched)
	}()
	g.next.ServeHTTP(watched, r)
}

// watchedWriter records whether an answer has begun, and its status.
type watchedWriter struct {
	http.ResponseWriter
	wrote   bool
	status  int
	knownAt func() time.Time
}

func (w *watchedWriter) WriteHeader(status int) {
	if at := w.knownAt(); !at.IsZero() {
		wire.SetKnownAt(w.Header(), at)
	}
	w.wrote, w.status = true, status
	w.ResponseWriter.WriteHeader(status)
}

func (w *watchedWriter) Write(b []byte) (int, error) {
	if !w.wrote {
		w.WriteHeader(http.StatusOK)
	}
	return w.ResponseWriter.Write(b)
}

// FlushError sends the header and the buffered body. It is the method that http.ResponseController.Flush calls.
func (w *watchedWriter) FlushError() error {
	if !w.wrote {
		w.WriteHeader(http.StatusOK)
	}
	return http.NewResponseController(w.ResponseWriter).Flush()
}

// Unwrap lets http.ResponseController reach the connection.
func (w *watchedWriter) Unwrap() http.ResponseWriter { return w.ResponseWriter }

// Limits on what one peer may use.
const (
	anonymousTime = 10 * time.Second // for the body of a request without a certificate
	maxJoinBytes  = 32 << 10
	maxJoins      = 8 // concurrent joins

	maxRequests      = 256 // concurrent requests of one certificate, including those that wait
	maxHeartbeats    = 4   // of one node; each is read into memory
	maxRebuilds      = 1   // of one node; each is read into memory
	maxRebuildsTotal = 2   // of all nodes together

	maxReportBytes = 256 << 10 // bytes of a report on one operation, copy, move or host
	// Reports on everything that a node has are larger: about 80,000 datasets in a heartbeat, about 100,000
	// records in a rebuild.
	maxHeartbeatBytes = 16 << 20
	maxRebuildBytes   = 256 << 20
)

// requestCounter counts the concurrent requests of each certificate and of all. It is safe for concurrent use.
type requestCounter struct {
	mu  sync.Mutex
	of  map[pki.Identity]int
	all int
}

// begin counts a request until leave is called. most is the limit for one certificate, and ofAll the limit for all
// together; if ofAll is 0, there is none. begin returns ErrUnavailable if one of the limits is reached.
func (c *requestCounter) begin(id pki.Identity, what string, most, ofAll int) (leave func(), err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	switch {
	case c.of[id] >= most:
		return nil, dataset.Errorf(dataset.ErrUnavailable,
			"%s has %d %s in progress, the maximum (try again when one has ended)", id, most, what)
	case ofAll > 0 && c.all >= ofAll:
		return nil, dataset.Errorf(dataset.ErrUnavailable,
			"%d %s are in progress, the maximum (try again when one has ended)", ofAll, what)
	}
	if c.of == nil {
		c.of = map[pki.Identity]int{}
	}
	c.of[id]++
	c.all++
	return func() {
		c.mu.Lock()
		defer c.mu.Unlock()
		c.all--
		if c.of[id]--; c.of[id] == 0 {
			delete(c.of, id)
		}
	}, nil
}

// limitConcurrency returns a middleware that limits the concurrent requests to an endpoint, before their bodies are
// read. Requests from this host are not limited.
func limitConcurrency(what string, most, ofAll int) func(huma.Context, func(huma.Context)) {
	var now requestCounter
	return func(hc huma.Context, next func(huma.Context)) {
		p := api.PrincipalOf(hc.Context())
		if p.Local {
			next(hc)
			return
		}
		leave, err := now.begin(p.Identity, what, most, ofAll)
		if err != nil {
			refuse(hc, err)
			return
		}
		defer leave()
		next(hc)
	}
}

// refuseUnless returns a middleware that refuses requests while may returns an error, before their bodies are read.
func refuseUnless(may func() error) func(huma.Context, func(huma.Context)) {
	return func(hc huma.Context, next func(huma.Context)) {
		if err := may(); err != nil {
			refuse(hc, err)
			return
		}
		next(hc)
	}
}

func refuse(hc huma.Context, err error) {
	changeOf(hc.Context()).noteError(err)
	_, w := humago.Unwrap(hc)
	wire.ProblemOf(err).Write(w)
}

// When agents learn of a recovery, all of them send their reports at once. An agent that is refused because of these
// limits tries again.
const (
	maxHoldings      = 1  // of one node; each is read into memory
	maxHoldingsTotal = 16 // of all nodes together
)
