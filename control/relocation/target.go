package relocation

import (
	"github.com/droverhq/drover/control/api"
	"github.com/droverhq/drover/control/placement"
	"github.com/droverhq/drover/control/record"
	"github.com/droverhq/drover/dataset"
)

// moveTarget returns the target node of a move request. If the request names no node, it returns the node with the
// newest complete copy. If no node has such a copy, it chooses a node as for a new volume. A forced move then fails,
// because it must continue from a copy.
func (r *Relocator) moveTarget(t *record.Tx, d dataset.Dataset, req api.Request) (dataset.Node, error) {
	if req.Node != "" {
		return t.FindNode(req.Node)
	}
	n, found, err := r.freshest(t, d, false)
	switch {
	case err != nil || found:
		return n, err
	case !req.Force:
		return r.chooseTarget(t, d)
	}
	cordoned, found, err := r.freshest(t, d, true)
	switch {
	case err != nil:
		return n, err
	case found:
		return n, dataset.Errorf(dataset.ErrConflict,
			"move of volume %s: node %s has the newest complete copy and is cordoned (drover node cordon --off %s "+
				"ends that)", d.Volume, cordoned.Name, cordoned.Name)
	}
	return n, dataset.Errorf(dataset.ErrNotFound, "move of volume %s: no other node has a complete copy of it",
		d.Volume)
}

// freshest returns the node that has the newest complete copy of a dataset, among the nodes that are cordoned or among
// those that are not.
func (r *Relocator) freshest(t *record.Tx, d dataset.Dataset, cordoned bool) (best dataset.Node, found bool,
	err error) {
	var newest dataset.Copy
	for _, node := range d.Copies {
		c, there, err := r.Reports.CurrentCopy(t, node, d.ID)
		if err != nil {
			return best, false, err
		}
		if !there || !c.Promotable() || r.Reports.WhyPoolUnusable(c.Pool) != "" ||
			found && c.At().Compare(newest.At()) <= 0 {
			continue
		}
		var n dataset.Node
		if known, err := t.Get(record.NodeKey(node), &n); err != nil {
			return best, false, err
		} else if known && n.Cordoned == cordoned {
			best, newest, found = n, c, true
		}
	}
	return best, found, nil
}

// chooseTarget chooses a node for a volume that must leave its home, if the request names none. It chooses as for a new
// volume, but prefers a pool to which the snapshots can move too.
func (r *Relocator) chooseTarget(t *record.Tx, d dataset.Dataset) (n dataset.Node, err error) {
	from, err := t.Pool(d)
	if err != nil {
		return n, err
	}
	o := placement.Requirement{
		ID:          d.ID,
		Subject:     "move of volume " + d.Volume,
		Profile:     d.Profile,
		NameNode:    true,
		CurrentSize: r.Placer.Oversize(d), Size: d.Size,
	}
	if o.Placement, err = placement.ParsePlacement(d.Profile); err != nil {
		return n, err
	}
	sites, err := r.Placer.Sites(t)
	if err != nil {
		return n, err
	}
	sites = receivingSites(sites, from)
	var fit, alike []placement.Candidate
	for i := range sites {
		c, fits := placement.FirstFit(sites[i:i+1], o)
		if !fits {
			continue
		}
		fit = append(fit, c)
		if placement.Likeness(from, c.Pool) >= placement.LikeKind {
			alike = append(alike, c)
		}
	}
	switch {
	case len(sites) == 0:
		return n, dataset.Errorf(dataset.ErrOffline, "move of volume %s: there is no other node", d.Volume)
	case len(fit) == 0:
		return n, placement.NoPoolError(sites, o)
	case len(alike) > 0:
		fit = alike
	}
	_, err = t.Get(record.NodeKey(placement.Spread(fit, d.ID).Node), &n)
	return n, err
}
