package control

import (
	"reflect"
	"slices"
	"strings"

	"github.com/droverhq/drover/dataset"
)

// unasked tells that a pool could not be opened since its node started, so that nobody knows what
// it can: it is to be said that it is offline, and not that it can nothing. Pure.
func (c candidate) unasked() bool {
	return c.status != nil && !c.status.Online && reflect.ValueOf(c.Capabilities).IsZero()
}

// chosen tells whether a profile leaves a pool the choice. Pure.
func chosen(c candidate, p dataset.Profile) bool {
	return (p.Pool == "" || p.Pool == c.Name) && (p.Backend == "" || p.Backend == c.Backend)
}

// other leaves of sites the pool that an order names, of which alone it is to be said why it does not
// fit, and says which others could keep what that cannot; could is "" where none could. Pure.
func other(sites []site, o order) (head, could string, of []site) {
	name, nodes := o.profile.Pool, o.named || len(sites) > 1
	o.profile.Pool = ""
	var names []string
	lacks := false
	for _, st := range sites {
		its := st
		its.pools = nil
		for _, c := range st.pools {
			if c.Name == name {
				its.pools = append(its.pools, c)
				lacks = lacks || misfit(c, o.profile) != ""
			} else if why, _ := st.unfit(c, o); why == "" {
				names = append(names, c.Name)
				if nodes {
					names[len(names)-1] += " of node " + st.Name
				}
			}
		}
		if len(its.pools) > 0 {
			of = append(of, its)
		}
	}
	switch {
	case name == "" || len(of) == 0: // an error says of each why
		return "no pool", "", sites
	case len(names) == 0 || !lacks:
		return "no pool " + name, "", of
	}
	slices.Sort(names)
	if len(names) > refusedShown {
		names = append(names[:refusedShown], "others")
	}
	return "no pool " + name, " (pool " + strings.Join(names, ", ") + " could)", of
}
