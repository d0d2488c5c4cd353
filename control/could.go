package control

import (
	"fmt"
	"slices"
	"strings"

	"github.com/droverhq/drover/control/placement"
)

// could says which pools of all are for an order, where one of sites cannot keep it; "": none. Where those
// are merely away it says nothing. large: one is too small, and fits otherwise. Pure.
func could(sites, all []placement.Site, o placement.Requirement) (who string, large bool) {
	head, sites := placement.Named(sites, o.Profile.Pool)
	lacks := false
	for _, st := range sites {
		for _, c := range st.Pools {
			why := placement.WhyUnsuitable(c, o.Profile)
			small := why == "" && c.Less(o.Profile.Size, o.Had) != ""
			lacks, large = lacks || small || why != "" && !c.IsUnasked(), large || small
		}
	}
	if !lacks {
		return "", false
	}
	if head != "no pool" { // the one that is named cannot: another might
		o.Profile.Pool = ""
	}
	o.Had = 0 // what would come there is not there yet
	var names []string
	for _, st := range all {
		for _, c := range st.Pools {
			if why, _ := st.Unfit(c, o); why == "" {
				names = append(names, c.OnNode(st.Name))
			}
		}
	}
	return poolsCould(names), large
}

// poolsCould says that these could, if there are any.
func poolsCould(names []string) string {
	if len(names) == 0 {
		return ""
	}
	slices.Sort(names)
	if len(names) > placement.RefusedShown {
		names = append(names[:placement.RefusedShown], "others")
	}
	return "pool " + strings.Join(names, ", ") + " could"
}

// withOthers adds to the error that no pool of sites is for an order which others could, or else what
// would do.
func (s *Service) withOthers(t *tx, refusal error, sites []placement.Site, o placement.Requirement) error {
	all := sites
	if !o.Here {
		var err error
		if all, err = s.sites(t); err != nil {
			return err
		}
		if o.Where, err = placementExpr(o.Profile); err != nil {
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
