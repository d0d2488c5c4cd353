package placement

import (
	"fmt"
	"slices"
	"strings"

	"github.com/droverhq/drover/dataset"
	"github.com/droverhq/drover/internal/selector"
	"github.com/google/uuid"
)

// WhyKindUnsuitable returns why no pool of a backend could keep a profile on any host; "" if one could. best has the
// capabilities that a pool of that backend has at best.
func WhyKindUnsuitable(backend string, best dataset.Capabilities, p dataset.Profile) string {
	c := Candidate{Pool: dataset.Pool{Name: p.Pool, Backend: backend, Capabilities: best}, Guarded: true}
	if best.OwnDevice {
		c.Capabilities.Limits = dataset.LimitsStrict
	}
	if best.ManyHosts {
		c.Share = uuid.Max // any share will do
	}
	return WhyUnsuitable(c, p)
}

// ParsePlacement parses the placement expression of a profile. It was checked when the profile was loaded, but a
// recorded profile may be damaged.
func ParsePlacement(p dataset.Profile) (selector.Expr, error) {
	if p.Placement == "" {
		return selector.Expr{}, nil
	}
	e, err := selector.Parse(p.Placement)
	if err != nil {
		err = fmt.Errorf("placement of profile %s: %w", p.Name, err)
	}
	return e, err
}

// SuggestPools returns a hint for the error that no pool of the argument sites satisfies a requirement. The hint names
// pools of the sites in the argument all that satisfy it. SuggestPools returns "" if there is none. If the pools of the
// sites are suitable and only offline, SuggestPools returns "". large is true if one of the sites has a pool that is
// unsuitable only because the dataset is too large for it.
func SuggestPools(sites, all []Site, o Requirement) (who string, large bool) {
	head, sites := FilterByName(sites, o.Profile.Pool)
	lacks := false
	for _, st := range sites {
		for _, c := range st.Pools {
			why := WhyUnsuitable(c, o.Profile)
			small := why == "" && c.WhyTooSmall(o.sizeOn(c), o.CurrentSize) != ""
			lacks, large = lacks || small || why != "" && !c.IsUnopened(), large || small
		}
	}
	if !lacks {
		return "", false
	}
	if head != "no pool" { // the pool with the requested name is unsuitable, but another one may be suitable
		o.Profile.Pool = ""
	}
	o.CurrentSize = 0 // another pool does not have the data yet, so its size counts
	var names []string
	for _, st := range all {
		for _, c := range st.Pools {
			if why, _ := st.WhyUnfit(c, o); why == "" {
				names = append(names, c.QualifiedName(st.Name))
			}
		}
	}
	return FormatPools(names), large
}

// FormatPools formats a hint for an error that these pools satisfy the requirement; "" without pools.
func FormatPools(names []string) string {
	if len(names) == 0 {
		return ""
	}
	slices.Sort(names)
	if len(names) > NamesShown {
		names = append(names[:NamesShown], "others")
	}
	return "pool " + strings.Join(names, ", ") + " could"
}
