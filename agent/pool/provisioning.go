package pool

import (
	"sync"

	"github.com/google/uuid"

	"github.com/droverhq/drover/dataset"
)

// Provisioning compares the sizes of the volumes in a pool with the overcommit that its policy allows, before a volume
// is made or grows. It remembers the sizes of running operations, so that two operations at the same time cannot exceed
// the policy together. It is safe for concurrent use.
type Provisioning struct {
	pools *Pools

	mu      sync.Mutex
	pending map[uuid.UUID]map[uuid.UUID]dataset.Size // by pool, then by dataset: the size that it will have
}

// NewProvisioning returns the Provisioning of the pools of a node.
func NewProvisioning(pools *Pools) *Provisioning {
	return &Provisioning{pools: pools, pending: map[uuid.UUID]map[uuid.UUID]dataset.Size{}}
}

// Reserve provisions a size for a dataset in a pool. st is the present status of the pool. It fails with
// dataset.ErrUnsupported if the policy of the pool does not allow the size. Call release once the size of the dataset
// is recorded, or the operation has failed.
func (p *Provisioning) Reserve(pool uuid.UUID, st dataset.PoolStatus, ds uuid.UUID, size dataset.Size) (
	release func(), err error) {
	pl := p.pools.ByID(pool)
	if pl == nil {
		return func() {}, nil
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	st.Overcommit, st.Provisioned = pl.Record.Overcommit, p.pools.Cache.Provisioned(pool)
	for other, its := range p.pending[pool] {
		if other != ds {
			st.Provisioned += max(0, its-p.recorded(pool, other))
		}
	}
	if why := st.WhyOvercommitted(size - p.recorded(pool, ds)); why != "" {
		return func() {}, dataset.Errorf(dataset.ErrUnsupported,
			"pool %s is overcommitted: %s (request less, or another pool: drover pool ls)", pl.Name, why)
	}
	if more := size - p.recorded(pool, ds); pl.Record.Overcommit == 0 && st.Size > 0 && st.Provisioned <= st.Size &&
		st.Provisioned+more > st.Size {
		p.pools.Log.WithField("pool", pl.Name).Warnf("its volumes may now become %s large, and it has %s: sizes "+
			"reserve no space (drover pool set %s --overcommit 1 refuses more)",
			(st.Provisioned + more).Human(), st.Size.Human(), pl.Name)
	}
	if p.pending[pool] == nil {
		p.pending[pool] = map[uuid.UUID]dataset.Size{}
	}
	p.pending[pool][ds] = size
	return func() {
		p.mu.Lock()
		defer p.mu.Unlock()
		delete(p.pending[pool], ds)
	}, nil
}

// recorded returns the recorded size of a dataset in a pool, or 0 if it is not there.
func (p *Provisioning) recorded(pool, ds uuid.UUID) dataset.Size {
	if d, ok := p.pools.Cache.Dataset(ds); ok && d.Pool == pool && d.State == dataset.StateReady {
		return d.Size
	}
	return 0
}
