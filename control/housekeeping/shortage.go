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

// shortage lists the volumes with fewer replicas than their profiles require. They get the missing replicas when a
// node can take one. Rounds examine only changed records, and a change of a node does not change the records of these
// volumes. So they are remembered here.
type shortage struct {
	reported map[uuid.UUID]bool // the datasets that lack replicas
	nodes    string             // the state of nodes and pools at the last attempt
}

// record remembers the outcome of an attempt to give a dataset its replicas.
func (s *shortage) record(id uuid.UUID, err error) {
	if err == nil {
		delete(s.reported, id)
		return
	}
	s.reported[id] = true
}

// due returns the datasets that lack replicas, if a node or a pool has changed since the last attempt. If no dataset
// lacks replicas, it reads nothing.
func (k *Housekeeper) due(ctx context.Context, short *shortage) ([]uuid.UUID, error) {
	if len(short.reported) == 0 {
		return nil, nil
	}
	sites, err := k.Placer.Sites(record.NewTx(ctx, k.Ledger.Store))
	if err != nil {
		return nil, err
	}
	var now strings.Builder
	for _, st := range sites {
		for _, c := range st.Pools {
			fmt.Fprintf(&now, "%s %t %t %t %t %s\n",
				c.ID, c.Cordoned, c.Unreported, c.Unreachable, c.Guarded, c.WhyOffline())
		}
	}
	if now.String() == short.nodes {
		return nil, nil
	}
	short.nodes = now.String()
	return slices.Collect(maps.Keys(short.reported)), nil
}
