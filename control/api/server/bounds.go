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

// What one peer may take of a process.
const (
	strangerTime = 10 * time.Second // for a body, from who may be anybody
	maxJoin      = 32 << 10
	joinsOnce    = 8 // joins at once

	requestsOnce   = 256 // requests at once of one certificate's holder, those that wait too
	heartbeatsOnce = 4   // of one node, of which each is read into memory
	rebuildsOnce   = 1   // likewise
	rebuildsAll    = 2   // of all nodes

	maxReport = 256 << 10 // bytes of what an agent says of one operation, copy, move or host
	// Bodies of agents that report all they have are larger: some 80,000 datasets in a
	// heartbeat, some 100,000 records in a rebuild.
	maxHeartbeat = 16 << 20
	maxRebuild   = 256 << 20
)

// crowd counts how many requests each member has under way, and all have. Safe for
// concurrent use.
type crowd struct {
	mu  sync.Mutex
	of  map[pki.Identity]int
	all int
}

// enter counts one more until leave is called. ErrUnavailable for one too many; most of
// all 0: as many as there are.
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

// atOnce bounds how many requests to an endpoint are under way, before their bodies are
// read. Those of this host are not bounded.
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

// only refuses requests to an endpoint, before their bodies are read, unless they may be.
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

// All agents tell what they hold at once, when they hear of a recovery, and again while
// others are under way.
const (
	holdingsOnce = 1  // of one node, which are read into memory
	holdingsAll  = 16 // of all nodes
)
