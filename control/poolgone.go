package control

import (
	"context"
	"fmt"
	"slices"
	"strings"

	"github.com/google/uuid"

	"github.com/droverhq/drover/control/api"
	"github.com/droverhq/drover/dataset"
)

// keepPools keeps on record what pools a node had and does not name now, but for those that are
// gone: their datasets are offline, not gone.
func (t *tx) keepPools(n *dataset.Node, had, gone []uuid.UUID) error {
	for _, id := range had {
		switch {
		case slices.Contains(n.Pools, id):
		case slices.Contains(gone, id):
			if err := t.dropPool(*n, id); err != nil {
				return err
			}
		default:
			n.Pools, n.Dropped = append(n.Pools, id), append(n.Dropped, id)
		}
	}
	return nil
}

// clearGone forgets what a node was to destroy in pools that are gone.
func (s *Service) clearGone(ctx context.Context, node uuid.UUID, gone []uuid.UUID) error {
	for _, id := range gone {
		if err := s.clearCondemned(ctx, node, id); err != nil {
			return err
		}
	}
	return nil
}

// dropPool takes a pool off the record that its node has no more. ErrConflict while anything is
// on record there, but for what is condemned: who lets go of the pool lets go of that too. It
// rests on the node's record: whoever is about to put something there has read that, and its
// agent has registered without the pool before, so that nothing new was planned for it.
func (t *tx) dropPool(n dataset.Node, id uuid.UUID) error {
	var p dataset.Pool
	there, err := t.get(poolKey(id), &p)
	if err != nil || !there || p.Node != n.ID {
		return err // another node has adopted it
	}
	left, err := t.lyingIn(n.ID, id)
	if err != nil {
		return err
	}
	if len(left) > 0 {
		more := ""
		count := len(left)
		if count > shownHomes {
			left, more = left[:shownHomes], " and others"
		}
		return dataset.Errorf(dataset.ErrConflict, "pool %s of node %s has %d on record: %s%s (drover volume move or drover volume rm, then drover trash purge; a replica goes with its volume, or by drover node drain, a superseded copy by drover volume superseded discard)",
			p.Name, n.Name, count, strings.Join(left, ", "), more)
	}
	t.events = append(t.events, api.Event{Type: "pool.remove", Node: n.Name, Detail: fmt.Sprintf("pool %s (%s, backend %s at %s) is on record no more", p.Name, id, p.Backend, p.Path)})
	return t.forgetPool(n.ID, id)
}

// forgetPool forgets a pool, unless it is another node's by now.
func (t *tx) forgetPool(node, id uuid.UUID) error {
	var p dataset.Pool
	there, err := t.get(poolKey(id), &p)
	if there && p.Node == node {
		t.del(poolKey(id))
		t.del(generationKey(id))
	}
	return err
}

// lyingIn names what is on record in a pool of a node, and what is to be made there.
func (t *tx) lyingIn(node, pool uuid.UUID) (what []string, err error) {
	homes, err := listAll[claim](t, homePrefix(node))
	if err != nil {
		return nil, err
	}
	work, err := listAll[claim](t, workPrefix(node))
	if err != nil {
		return nil, err
	}
	copies, err := listAll[dataset.Copy](t, nodeCopies(node))
	if err != nil {
		return nil, err
	}
	var keys []string
	for _, c := range homes {
		keys = append(keys, datasetKey(c.ID))
	}
	for _, c := range work {
		keys = append(keys, operationKey(c.ID))
	}
	if err := t.foresee(keys); err != nil {
		return nil, err
	}
	for _, c := range homes {
		var d dataset.Dataset
		if _, err := t.peek(datasetKey(c.ID), &d); err != nil {
			return nil, err
		}
		switch {
		case d.Pool != pool || d.State == dataset.StatePurging:
		case d.State == dataset.StateReady:
			what = append(what, "volume "+d.Volume)
		default:
			what = append(what, fmt.Sprintf("volume %s (deleted, %s)", d.Volume, d.ID.String()[:8]))
		}
	}
	for _, c := range copies {
		if c.Pool != pool {
			continue
		}
		var d dataset.Dataset
		if _, err := t.peek(datasetKey(c.Dataset), &d); err != nil {
			return nil, err
		}
		what = append(what, fmt.Sprintf("a copy (%s) of volume %s", c.Kind, d.Volume))
	}
	for _, c := range work {
		var op dataset.Operation
		if _, err := t.peek(operationKey(c.ID), &op); err != nil {
			return nil, err
		}
		if !op.State.Final() && op.Dataset != nil && op.Dataset.Pool == pool && op.Kind != dataset.OpPurge {
			what = append(what, fmt.Sprintf("operation %s, the %s of volume %s", op.ID.String()[:8], op.Kind, op.Volume))
		}
	}
	return what, nil
}
