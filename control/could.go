package control

import (
	"fmt"
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

// spoken leaves of sites the pool that an order names, of which alone it is to be said why it does not
// fit, and begins to say so. Pure.
func spoken(sites []site, name string) (head string, of []site) {
	for _, st := range sites {
		its := st
		its.pools = slices.DeleteFunc(slices.Clone(st.pools), func(c candidate) bool { return c.Name != name })
		if len(its.pools) > 0 {
			of = append(of, its)
		}
	}
	if len(of) == 0 { // an error says of each why
		return "no pool", sites
	}
	return "no pool " + name, of
}

// could says which pools of all are for an order, where one of sites cannot keep it; "": none. Where those
// are merely away it says nothing. large: one is too small, and fits otherwise. Pure.
func could(sites, all []site, o order) (who string, large bool) {
	head, sites := spoken(sites, o.profile.Pool)
	lacks := false
	for _, st := range sites {
		for _, c := range st.pools {
			why := misfit(c, o.profile)
			small := why == "" && c.less(o.profile.Size, o.had) != ""
			lacks, large = lacks || small || why != "" && !c.unasked(), large || small
		}
	}
	if !lacks {
		return "", false
	}
	if head != "no pool" { // the one that is named cannot: another might
		o.profile.Pool = ""
	}
	o.had = 0 // what would come there is not there yet
	var names []string
	for _, st := range all {
		for _, c := range st.pools {
			if why, _ := st.unfit(c, o); why == "" {
				names = append(names, c.of(st.Name))
			}
		}
	}
	return poolsCould(names), large
}

// of is a pool's name in an error about several, on a node.
func (c candidate) of(node string) string { return c.Name + " of node " + node }

// poolsCould says that these could, if there are any.
func poolsCould(names []string) string {
	if len(names) == 0 {
		return ""
	}
	slices.Sort(names)
	if len(names) > refusedShown {
		names = append(names[:refusedShown], "others")
	}
	return "pool " + strings.Join(names, ", ") + " could"
}

// withOthers adds to the error that no pool of sites is for an order which others could, or else what
// would do.
func (s *Service) withOthers(t *tx, refusal error, sites []site, o order) error {
	all := sites
	if !o.here {
		var err error
		if all, err = s.sites(t); err != nil {
			return err
		}
		if o.where, err = placement(o.profile); err != nil {
			return err
		}
	}
	who, large := could(sites, all, o)
	switch {
	case who != "":
		return fmt.Errorf("%w (%s)", refusal, who)
	case large:
		return fmt.Errorf("%w (ask for less, or make the pool larger)", refusal)
	}
	return refusal
}
