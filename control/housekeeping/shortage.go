package housekeeping

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/google/uuid"

	"github.com/droverhq/drover/control/record"
)

// shortage is the background work's list of volumes with fewer replicas than their profiles ask for. They get
// the missing ones when a node can take one, which changes nothing of the volumes.
type shortage struct {
	of    map[uuid.UUID]bool // the datasets
	nodes string             // how nodes and pools were at the last try
}

// note remembers the outcome of an attempt to give a dataset its replicas.
func (s *shortage) note(id uuid.UUID, err error) {
	if err == nil {
		delete(s.of, id)
		return
	}
	s.of[id] = true
}

// due returns the datasets that miss replicas if a node or a pool is another than at the last try.
// Without such datasets it reads nothing.
func (k *Housekeeper) due(ctx context.Context, short *shortage) ([]uuid.UUID, error) {
	if len(short.of) == 0 {
		return nil, nil
	}
	sites, err := k.Placer.Sites(record.NewTx(ctx, k.Ledger.Store))
	if err != nil {
		return nil, err
	}
	var now strings.Builder
	for _, st := range sites {
		for _, c := range st.Pools {
			fmt.Fprintf(&now, "%s %t %t %t %t %s\n", c.ID, c.Cordoned, c.Dropped, c.Silent, c.Guarded, c.WhyOffline())
		}
	}
	if now.String() == short.nodes {
		return nil, nil
	}
	short.nodes = now.String()
	return slices.Collect(maps.Keys(short.of)), nil
}
