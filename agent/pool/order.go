package pool

import (
	"cmp"
	"context"
	"fmt"
	"os"
	"slices"

	"github.com/google/uuid"

	"github.com/droverhq/drover/dataset"
)

// recall adds the pools that control records for this node, after the agent's database was lost, and returns
// their names. If control is unreachable it adds none; the pools of drover.yaml are found at their paths.
func (p *Pools) recall(ctx context.Context, known map[string]Record) (names []string, err error) {
	list, err := p.Control.Pools(ctx)
	if err != nil {
		p.Log.WithError(err).Warn("control does not say which pools this node had")
		return nil, nil
	}
	values := map[string]any{}
	for _, o := range list {
		if o.Node != p.node || o.ID == uuid.Nil {
			continue
		}
		if err := p.Answers(ctx, o.Path); err != nil { // only the pool itself can identify itself
			return nil, fmt.Errorf("pool %s, of which this node's own record was lost: %w", o.Name, err)
		}
		rec := Record{ID: o.ID, Backend: o.Backend, Path: o.Path, Devices: o.Devices, Default: o.Default, Found: true}
		if st, err := os.Lstat(o.Path); err == nil && st.Mode().IsRegular() {
			rec.Image = dataset.Size(st.Size())
		}
		p.Place(o.Name, &rec)
		known[o.Name], values["pools/"+o.Name] = rec, rec
		names = append(names, o.Name)
	}
	return names, p.DB.Put(ctx, values)
}

// Overlap reports whether one of two pools is located or mounted within the other.
func Overlap(x, y Record) bool {
	for _, p := range x.Places() {
		for _, q := range y.Places() {
			if Within(p, q) || Within(q, p) {
				return true
			}
		}
	}
	return false
}

// apart reports whether the pool shares no filesystem with other files.
func (r Record) apart() bool { return r.Image > 0 || r.Mount != "" || len(r.Devices) > 0 }

// Places are the paths that a pool takes up: its folder or volume group, and the directory where it is mounted.
func (r Record) Places() []string {
	if r.Mount == "" {
		return []string{r.Path}
	}
	return []string{r.Path, r.Mount}
}

// Enlist adds a pool at its position in the order. Control puts a dataset on the first pool that fits, so the
// order must be the same after a restart.
func (p *Pools) Enlist(op *Pool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if was := p.byID[op.ID]; was == nil || was.Gone {
		p.Order = append(p.Order, op.ID)
	} else if was.Record.Path != op.Record.Path { // otherwise the interrupted making was at the same path
		if err := was.Opening.drop(); err != nil {
			p.Log.WithError(err).WithField("pool", op.Name).Warn("pool was not closed where it was before")
		}
	}
	p.byID[op.ID] = op
	slices.SortFunc(p.Order, func(x, y uuid.UUID) int { return p.compare(p.byID[x], p.byID[y]) })
}

// compare orders pools: those of drover.yaml first, in its order, then the default pool, then the others by name.
func (p *Pools) compare(x, y *Pool) int {
	place := func(o *Pool) int {
		i := slices.IndexFunc(p.Configured, func(c Config) bool { return c.Name == o.Name })
		switch {
		case i >= 0:
			return i
		case o.Default:
			return len(p.Configured)
		}
		return len(p.Configured) + 1
	}
	return cmp.Or(cmp.Compare(place(x), place(y)), cmp.Compare(x.Name, y.Name))
}
