package placement

import (
	"reflect"
	"slices"

	"github.com/droverhq/drover/dataset"
)

// IsUnopened reports whether the pool has not been opened since its node started. Its capabilities are not known
// then. An error must say that such a pool is offline, and not that it lacks every capability.
func (c Candidate) IsUnopened() bool {
	return c.Status != nil && !c.Status.Online && reflect.ValueOf(c.Capabilities).IsZero()
}

// IsRequested reports whether the pool has the name and the backend that the profile asks for, if it asks for any.
func IsRequested(c Candidate, p dataset.Profile) bool {
	return (p.Pool == "" || p.Pool == c.Name) && (p.Backend == "" || p.Backend == c.Backend)
}

// FilterByName removes all pools but the one with the given name from the sites. An error about the sites then gives
// the reasons only for that pool. If no site has such a pool, the function returns all sites. head is the beginning of
// the error.
func FilterByName(sites []Site, name string) (head string, of []Site) {
	for _, st := range sites {
		its := st
		its.Pools = slices.DeleteFunc(slices.Clone(st.Pools), func(c Candidate) bool { return c.Name != name })
		if len(its.Pools) > 0 {
			of = append(of, its)
		}
	}
	if len(of) == 0 { // the error gives the reason of each pool
		return "no pool", sites
	}
	return "no pool " + name, of
}

// QualifiedName returns the name of the pool with that of its node, for errors about several nodes.
func (c Candidate) QualifiedName(node string) string { return c.Name + " of node " + node }
