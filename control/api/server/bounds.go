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
	strangerTime = 10 * time.Second // for the body of a request without a certificate
	maxJoin      = 32 << 10
	joinsOnce    = 8 // concurrent joins

	requestsOnce   = 256 // concurrent requests of one certificate, including those that wait
	heartbeatsOnce = 4   // of one node; each is read into memory
	rebuildsOnce   = 1   // of one node; each is read into memory
	rebuildsAll    = 2   // of all nodes together

	maxReport = 256 << 10 // bytes of a report on one operation, copy, move or host
	// Reports on everything that a node has are larger: about 80,000 datasets in a heartbeat, about 100,000
	// records in a rebuild.
	maxHeartbeat = 16 << 20
	maxRebuild   = 256 << 20
)

// crowd counts the concurrent requests of each certificate and of all. It is safe for concurrent use.
type crowd struct {
	mu  sync.Mutex
	of  map[pki.Identity]int
	all int
}

// enter counts a request until leave is called. It returns ErrUnavailable if there are already most of the same
// certificate, or ofAll in total. ofAll 0 means no limit in total.
func (c *crowd) enter(id pki.Identity, what string, most, ofAll int) (leave func(), err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	switch {
	case c.of[id] >= most:
		return nil, dataset.Errorf(dataset.ErrUnavailable,
			"%s has %d %s under way, which is the most at once (try again when one has ended)", id, most, what)
	case ofAll > 0 && c.all >= ofAll:
		return nil, dataset.Errorf(dataset.ErrUnavailable,
			"%d %s are under way, which is the most at once (try again when one has ended)", ofAll, what)
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

// atOnce returns a middleware that limits the concurrent requests to an endpoint, before their bodies are read.
// Requests from this host are not limited.
func atOnce(what string, most, ofAll int) func(huma.Context, func(huma.Context)) {
	var now crowd
	return func(hc huma.Context, next func(huma.Context)) {
		p := api.PrincipalOf(hc.Context())
		if p.Local {
			next(hc)
			return
		}
		leave, err := now.enter(p.Identity, what, most, ofAll)
		if err != nil {
			refuse(hc, err)
			return
		}
		defer leave()
		next(hc)
	}
}

// only returns a middleware that refuses requests while may returns an error, before their bodies are read.
func only(may func() error) func(huma.Context, func(huma.Context)) {
	return func(hc huma.Context, next func(huma.Context)) {
		if err := may(); err != nil {
			refuse(hc, err)
			return
		}
		next(hc)
	}
}

func refuse(hc huma.Context, err error) {
	changeOf(hc.Context()).failed(err)
	_, w := humago.Unwrap(hc)
	wire.ProblemOf(err).Write(w)
}

// When agents learn of a recovery, all of them report what they hold at once, and again while the reports of
// others are in progress.
const (
	holdingsOnce = 1  // of one node; each is read into memory
	holdingsAll  = 16 // of all nodes together
)
