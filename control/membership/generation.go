package membership

import (
	"context"
	"maps"
	"sync"

	"github.com/google/uuid"

	"github.com/droverhq/drover/control/api"
	"github.com/droverhq/drover/control/record"
	"github.com/droverhq/drover/control/reports"
	"github.com/droverhq/drover/dataset"
)

// GenerationRecorder records the generations of pools. Its methods are safe for concurrent use.
type GenerationRecorder struct {
	ledger *record.Ledger

	mu sync.Mutex
	// byPool has the highest generations that nodes reported to this service. It includes transient reports, which are
	// not written to the store: the generation of a pool in use is raised every few minutes.
	byPool     map[uuid.UUID]nodeGeneration
	pruneAbove int // above this number of entries, those of removed nodes are dropped
}

// NewGenerationRecorder returns a GenerationRecorder without reports.
func NewGenerationRecorder(l *record.Ledger) *GenerationRecorder {
	return &GenerationRecorder{ledger: l, byPool: map[uuid.UUID]nodeGeneration{}, pruneAbove: PruneThreshold}
}

type nodeGeneration struct {
	node    uuid.UUID
	highest uint64
}

// PruneThreshold is the number of remembered generations above which the generations of removed nodes are dropped.
const PruneThreshold = 1000

// Remember remembers generations that a node reported. It returns true if so many generations are remembered that the
// caller must drop those of removed nodes: see PruneThreshold.
func (s *GenerationRecorder) Remember(node uuid.UUID, list []api.Generation) (many bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, p := range list {
		said := nodeGeneration{node, p.Generation}
		if was := s.byPool[p.Pool]; was.node == node {
			said.highest = max(said.highest, was.highest)
		}
		s.byPool[p.Pool] = said
	}
	return len(s.byPool) > s.pruneAbove
}

// Remembered returns how many generations are remembered.
func (s *GenerationRecorder) Remembered() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.byPool)
}

// Generations records the generations of a node's pools, and returns the highest known generation of each pool. A
// pool with a lower generation was restored from a backup, and its agent quarantines it. A known generation only
// grows, so a late or repeated report does no harm. If a pool has a lower generation than the known one, Generations
// writes the known generation to the store, even if it was only in memory. It ignores pools that are not recorded for
// the node.
//
// It fails with dataset.ErrStale for an agent that is not the newest one of the node. It fails with ErrInvalid for a
// report that is too large, and for a generation above reports.MaxRaised.
func (s *GenerationRecorder) Generations(ctx context.Context, node uuid.UUID, g api.Generations) (out api.Generations,
	err error) {
	if err := reports.CheckCount("generations of node "+node.String(), len(g.Pools), reports.MaxPools,
		"pools"); err != nil {
		return out, err
	}
	for _, p := range g.Pools {
		if p.Generation > reports.MaxRaised {
			return out, dataset.Errorf(dataset.ErrInvalid,
				"pool %s: generation %d is higher than any possible one (maximum %d): its record is damaged",
				p.Pool, p.Generation, uint64(reports.MaxRaised))
		}
	}
	_, err = s.ledger.Update(ctx, func(t *record.Tx) error {
		out.Pools = make([]api.Generation, 0, len(g.Pools))
		keys := []string{record.NodeKey(node)}
		for _, p := range g.Pools {
			keys = append(keys, record.PoolKey(p.Pool), record.GenerationKey(p.Pool))
		}
		if err := t.Prefetch(keys); err != nil {
			return err
		}
		if _, err := FreshNode(t, node, g.Incarnation); err != nil {
			return err
		}
		for _, p := range g.Pools {
			highest, known, err := s.raise(t, node, p, g.Transient)
			if err != nil {
				return err
			}
			if known {
				out.Pools = append(out.Pools, api.Generation{Pool: p.Pool, Generation: highest})
			}
		}
		return nil
	})
	if err != nil || !s.Remember(node, out.Pools) {
		return out, err
	}
	return out, s.forgetGenerations(ctx)
}

// forgetGenerations removes the remembered reports of nodes that are not recorded any more.
func (s *GenerationRecorder) forgetGenerations(ctx context.Context) error {
	list, err := record.ListAll[dataset.Node](record.NewTx(ctx, s.ledger.Store), record.NodesPrefix)
	if err != nil {
		return err
	}
	nodes := map[uuid.UUID]bool{}
	for _, n := range list {
		nodes[n.ID] = true
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	maps.DeleteFunc(s.byPool, func(_ uuid.UUID, said nodeGeneration) bool { return !nodes[said.node] })
	s.pruneAbove = max(PruneThreshold, 2*len(s.byPool))
	return nil
}

// highestReported returns the highest generation of a pool that this service received, from any node. As in the store,
// reports of removed nodes do not count.
func (s *GenerationRecorder) highestReported(t *record.Tx, node, pool uuid.UUID) (uint64, error) {
	s.mu.Lock()
	said, known := s.byPool[pool]
	s.mu.Unlock()
	if !known || said.node == node {
		return said.highest, nil
	}
	there, err := t.Peek(record.NodeKey(said.node), &dataset.Node{})
	if err != nil || !there {
		return 0, err
	}
	return said.highest, nil
}

// raise returns the highest known generation of a pool. It writes that generation to the store, unless the store has it
// already. It does not write a transient report that is at least as high as the known generation. known is false if the
// pool does not belong to the node.
func (s *GenerationRecorder) raise(t *record.Tx, node uuid.UUID, p api.Generation, transient bool) (
	highest uint64, known bool, err error) {
	var on dataset.Pool
	if there, err := t.Get(record.PoolKey(p.Pool), &on); err != nil || !there || on.Node != node {
		return 0, false, err
	}
	var g record.Generation
	if _, err := t.Get(record.GenerationKey(p.Pool), &g); err != nil {
		return 0, false, err
	}
	reported, err := s.highestReported(t, node, p.Pool)
	if err != nil {
		return 0, false, err
	}
	was := max(reported, g.Highest)
	highest = max(was, p.Generation)
	if highest == g.Highest || transient && p.Generation >= was {
		return highest, true, nil
	}
	return highest, true, t.Put(record.GenerationKey(p.Pool), record.Generation{Pool: p.Pool, Highest: highest})
}
