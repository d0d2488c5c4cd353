package server

import (
	"sync"
	"time"

	"github.com/danielgtaylor/huma/v2"
	"github.com/danielgtaylor/huma/v2/adapters/humago"

	"github.com/droverhq/drover/control/api"
	"github.com/droverhq/drover/control/api/wire"
	"github.com/droverhq/drover/dataset"
	"github.com/droverhq/drover/internal/pki"
)

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
