package control

import (
	"context"

	"github.com/google/uuid"

	"github.com/droverhq/drover/control/api"
	"github.com/droverhq/drover/dataset"
)

// generation is the value of a pool's key under generations/: the highest that its node
// ever said. A key of its own, so that no decision about the pool is in its way.
type generation struct {
	Pool    uuid.UUID `json:"pool"`
	Highest uint64    `json:"highest"`
}

func generationKey(pool uuid.UUID) string { return generationsPrefix + pool.String() }

// Generations takes in of which generation pools of a node are, and returns the highest
// known of each: a pool that is of an older one was put back to an older state, and its
// agent holds it. What is on record only grows, so that a report which comes late, or again,
// does nothing. Pools that are not on record as the node's are left out. ErrStale for an
// agent that is not the node's newest, ErrInvalid for one that says too much.
func (s *Service) Generations(ctx context.Context, node uuid.UUID, g api.Generations) (out api.Generations, err error) {
	if err := within("generations of node "+node.String(), len(g.Pools), maxPools, "pools"); err != nil {
		return out, err
	}
	_, err = s.update(ctx, func(t *tx) error {
		out.Pools = make([]api.Generation, 0, len(g.Pools))
		keys := []string{nodeKey(node)}
		for _, p := range g.Pools {
			keys = append(keys, poolKey(p.Pool), generationKey(p.Pool))
		}
		if err := t.foresee(keys); err != nil {
			return err
		}
		if _, err := t.fresh(node, g.Incarnation); err != nil {
			return err
		}
		for _, p := range g.Pools {
			highest, known, err := t.raise(node, p)
			if err != nil {
				return err
			}
			if known {
				out.Pools = append(out.Pools, api.Generation{Pool: p.Pool, Generation: highest})
			}
		}
		return nil
	})
	return out, err
}

// raise puts on record that a pool is of a generation, and returns the highest there was.
// known is false for a pool that is not the node's.
func (t *tx) raise(node uuid.UUID, p api.Generation) (highest uint64, known bool, err error) {
	var on dataset.Pool
	if there, err := t.get(poolKey(p.Pool), &on); err != nil || !there || on.Node != node {
		return 0, false, err
	}
	var g generation
	if _, err := t.get(generationKey(p.Pool), &g); err != nil {
		return 0, false, err
	}
	if p.Generation <= g.Highest {
		return g.Highest, true, nil
	}
	return p.Generation, true, t.put(generationKey(p.Pool), generation{p.Pool, p.Generation})
}

// useless says why nothing can go on from what lies in a pool, as its node says; "" when it
// can, or nothing was heard.
func (s *Service) useless(pool uuid.UUID) string {
	switch st := s.seen.pool(pool); {
	case st == nil || st.Online:
		return ""
	case st.Held:
		return "has its copy in a pool that is held: " + st.Reason
	default:
		return "has its copy in a pool that is offline: " + st.Reason
	}
}

// held says why nothing is done in a pool, as its node says, and what is on record of it may
// not be so; "" when it is not held.
func (s *Service) held(pool uuid.UUID) string {
	if st := s.seen.pool(pool); st != nil && st.Held {
		return st.Reason
	}
	return ""
}
