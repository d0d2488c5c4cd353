package control

import (
	"fmt"
	"slices"
	"strings"

	"github.com/droverhq/drover/control/placement"
	"github.com/droverhq/drover/control/record"
)

// could lists the pools that satisfy a requirement which none of the sites satisfies; "" if there is none. If the
// pools of the sites are only unreachable it returns "". large says that the pool of a site is only too small. It
// is a pure function.
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
	if head != "no pool" { // the named pool does not suit; another one might
		o.Profile.Pool = ""
	}
	o.Had = 0 // another pool does not have the data yet
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

// poolsCould says that these pools could, if there are any.
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

// withOthers adds to the error that no pool of the sites satisfies a requirement which other pools do, or else
// what would help.
func (s *Service) withOthers(t *record.Tx, refusal error, sites []placement.Site, o placement.Requirement) error {
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
