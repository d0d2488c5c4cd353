package control

import (
	"slices"

	"github.com/google/uuid"

	"github.com/droverhq/drover/control/placement"
	"github.com/droverhq/drover/control/record"
	"github.com/droverhq/drover/dataset"
)

// Misfit returns why no pool of a backend could keep a profile on any host, given the best that a pool of that
// backend can do; "" if one could. It is a pure function.
func Misfit(backend string, best dataset.Capabilities, p dataset.Profile) string {
	c := placement.Candidate{Pool: dataset.Pool{Name: p.Pool, Backend: backend, Capabilities: best}, Guarded: true}
	if best.OwnDevice {
		c.Capabilities.Limits = dataset.LimitsStrict
	}
	if best.ManyHosts {
		c.Share = uuid.Max // any share will do
	}
	return placement.WhyUnsuitable(c, p)
}

// candidates returns the pools of a node in the order in which the node lists them.
func (s *Service) candidates(t *record.Tx, node uuid.UUID) ([]placement.Candidate, error) {
	var n dataset.Node
	if ok, err := t.Get(record.NodeKey(node), &n); err != nil || !ok {
		return nil, err
	}
	var cands []placement.Candidate
	for _, id := range n.Pools {
		var p dataset.Pool
		ok, err := t.Peek(record.PoolKey(id), &p)
		if err != nil {
			return nil, err
		}
		if ok && p.Node == n.ID { // unless another node has adopted it
			cands = append(cands, placement.Candidate{
				Pool:     p,
				Cordoned: n.Cordoned,
				Dropped:  slices.Contains(n.Dropped, id),
				Guarded:  s.reported.Guarded(n.ID),
				Status:   s.reported.Pool(id),
			})
		}
	}
	return cands, nil
}

// fits checks that a dataset can have a profile where it is, or that a dataset can be made from it with the
// profile. had is the size that it had before.
func (s *Service) fits(t *record.Tx, d dataset.Dataset, p dataset.Profile, had dataset.Size) error {
	pool, err := t.Pool(d)
	if err != nil {
		return err
	}
	o := placement.Requirement{What: "volume " + d.Volume, Profile: p, Had: had}
	cands := []placement.Candidate{{
		Pool:    pool,
		Guarded: s.reported.Guarded(pool.Node),
		Status:  s.reported.Pool(pool.ID),
	}}
	if _, err = placement.Choose(cands, o); err != nil {
		return s.withOthers(t, err, []placement.Site{{Pools: cands}}, o)
	}
	return nil
}

// unfit returns why a dataset could not have a profile where it is, even if it was made there again; nil if it
// could.
func (s *Service) unfit(t *record.Tx, d dataset.Dataset, p dataset.Profile) error {
	if err := s.fits(t, d, p, p.Size); dataset.KindOf(err) == dataset.ErrUnsupported {
		return err
	}
	return nil
}

// tooLarge returns the size of a dataset that is larger than its whole pool, as an older version could make it; 0
// if it is not. Such a dataset may move to another pool that is too small.
func (s *Service) tooLarge(d dataset.Dataset) dataset.Size {
	if st := s.reported.Pool(d.Pool); st != nil && st.Size > 0 && d.Size > st.Size {
		return d.Size
	}
	return 0
}
