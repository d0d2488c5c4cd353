package agent

import (
	"cmp"
	"slices"

	"github.com/google/uuid"
)

// enlist takes a pool in, in its place: control puts a dataset on the first pool
// that can keep it, which is to be the same one after a restart.
func (p *pools) enlist(op *openPool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.byID[op.ID] == nil {
		p.order = append(p.order, op.ID)
	}
	p.byID[op.ID] = op
	slices.SortFunc(p.order, func(x, y uuid.UUID) int { return p.compare(p.byID[x], p.byID[y]) })
}

// compare puts the pools of drover.yaml first, as they stand there, then the
// default pool, then the others by name.
func (p *pools) compare(x, y *openPool) int {
	place := func(o *openPool) int {
		i := slices.IndexFunc(p.a.Pools, func(c PoolConfig) bool { return c.Name == o.Name })
		switch {
		case i >= 0:
			return i
		case o.Default:
			return len(p.a.Pools)
		}
		return len(p.a.Pools) + 1
	}
	return cmp.Or(cmp.Compare(place(x), place(y)), cmp.Compare(x.Name, y.Name))
}
