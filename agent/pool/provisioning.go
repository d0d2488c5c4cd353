package pool

import (
	"sync"

	"github.com/google/uuid"

	"github.com/droverhq/drover/dataset"
)

// reservations are the sizes of running operations that make or grow a dataset. They are counted, so that two
// operations at the same time cannot exceed the policy of a pool together.
type reservations struct {
	mu     sync.Mutex
	byPool map[uuid.UUID]map[uuid.UUID]dataset.Size // then by dataset: the size that it will have
}

// Reserve compares the sizes of the volumes in a pool with the overcommit that its policy allows, and provisions a size
// for a dataset in a pool. st is the present status of the pool. It fails with dataset.ErrUnsupported if the policy of
// the pool does not allow the size. Call release once the size of the dataset is recorded, or the operation has failed.
func (t *Pools) Reserve(pool uuid.UUID, st dataset.PoolStatus, ds uuid.UUID, size dataset.Size) (
	release func(), err error) {
	pl := t.ByID(pool)
	if pl == nil {
		return func() {}, nil
	}
	r := &t.reservations
	r.mu.Lock()
	defer r.mu.Unlock()
	st.Overcommit, st.Provisioned = pl.Record.Overcommit, t.Cache.Provisioned(pool)
	for other, its := range r.byPool[pool] {
		if other != ds {
			st.Provisioned += max(0, its-t.recorded(pool, other))
		}
	}
	if why := st.WhyOvercommitted(size - t.recorded(pool, ds)); why != "" {
		return func() {}, dataset.Errorf(dataset.ErrUnsupported,
			"pool %s is overcommitted: %s (request less, or another pool: drover pool ls)", pl.Name, why)
	}
	if more := size - t.recorded(pool, ds); pl.Record.Overcommit == 0 && st.Size > 0 && st.Provisioned <= st.Size &&
		st.Provisioned+more > st.Size {
		t.Log.WithField("pool", pl.Name).Warnf("its volumes may now become %s large, and it has %s: sizes "+
			"reserve no space (drover pool set %s --overcommit 1 refuses more)",
			(st.Provisioned + more).Human(), st.Size.Human(), pl.Name)
	}
	if r.byPool[pool] == nil {
		r.byPool[pool] = map[uuid.UUID]dataset.Size{}
	}
	r.byPool[pool][ds] = size
	return func() {
		r.mu.Lock()
		defer r.mu.Unlock()
		delete(r.byPool[pool], ds)
	}, nil
}

// recorded returns the recorded size of a dataset in a pool, or 0 if it is not there.
func (t *Pools) recorded(pool, ds uuid.UUID) dataset.Size {
	if d, ok := t.Cache.Dataset(ds); ok && d.Pool == pool && d.State == dataset.StateReady {
		return d.Size
	}
	return 0
}
