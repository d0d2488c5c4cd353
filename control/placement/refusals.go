package placement

import (
	"cmp"
	"fmt"
	"strings"

	"github.com/droverhq/drover/dataset"
)

// NamesShown is how many pools or nodes with the same reason an error names. reasonsLength is roughly how many bytes
// of reasons an error has.
const (
	NamesShown    = 3
	reasonsLength = 330
)

// formatNames formats names for an error: all of them if there are few, otherwise the first ones.
func formatNames(what string, names []string) string {
	switch more := len(names) - NamesShown; {
	case len(names) == 1:
		return what + " " + names[0]
	case more > 1:
		return fmt.Sprintf("%ss %s and %d more", what, strings.Join(names[:NamesShown], ", "), more)
	}
	return what + "s " + strings.Join(names, ", ")
}

// reasons collects why nodes or pools do not meet a requirement, in the order in which they are added.
type reasons struct {
	lines []string
	names map[string][]string // names by line
}

func (r *reasons) add(name, line string) {
	if r.names == nil {
		r.names = map[string][]string{}
	}
	if r.names[line] == nil {
		r.lines = append(r.lines, line)
	}
	r.names[line] = append(r.names[line], name)
}

// text formats the reasons: the first ones in full, and the number of the others.
func (r *reasons) text(what, between string) string {
	var parts []string
	long, more := 0, 0
	for i, line := range r.lines {
		part := formatNames(what, r.names[line]) + ": " + line
		if long += len(part); i > 0 && long > reasonsLength || more > 0 {
			more += len(r.names[line])
			continue
		}
		parts = append(parts, part)
	}
	switch {
	case more == 1:
		parts = append(parts, "and 1 more "+what)
	case more > 1:
		parts = append(parts, fmt.Sprintf("and %d more %ss", more, what))
	}
	return strings.Join(parts, between)
}

// NoPoolError returns the error for the case that no pool meets the requirement, with the reasons. It is
// dataset.ErrOffline if a pool would meet the requirement once it is online again, and otherwise
// dataset.ErrUnsupported.
func NoPoolError(sites []Site, o Requirement) error {
	var why reasons
	pools, kind, nodes := 0, dataset.ErrUnsupported, o.NameNode || len(sites) > 1
	head, sites := FilterByName(sites, o.Profile.Pool)
	for _, st := range sites {
		pools += len(st.Pools)
		reason, ifOnline := st.whyNone(o, nodes)
		if ifOnline {
			kind = dataset.ErrOffline
		}
		why.add(st.Name, reason)
	}
	if pools == 0 {
		return dataset.Errorf(dataset.ErrOffline, "%s: there is no pool (drover pool create creates one)", o.Subject)
	}
	if pools == 1 && len(sites) == 1 {
		c := sites[0].Pools[0]
		reason, ifOnline := sites[0].WhyUnfit(c, o)
		name, cannot := c.Name, "cannot satisfy profile "+o.Profile.Name
		if nodes {
			name = c.QualifiedName(sites[0].Name)
		}
		reason += sites[0].uncordonHint(kind)
		if ifOnline {
			cannot = "is not available now"
		}
		return dataset.Errorf(kind, "%s: pool %s %s: %s", o.Subject, name, cannot, reason)
	}
	text := why.lines[0]
	if nodes {
		text = why.text("node", "; ")
	}
	if len(sites) == 1 {
		text += sites[0].uncordonHint(kind)
	}
	return dataset.Errorf(kind, "%s: %s can satisfy profile %s: %s", o.Subject, head, o.Profile.Name, text)
}

// uncordonHint returns the command that ends the cordon of the site, for the end of an error. It returns "" if the
// node is not cordoned, or if its pools would not be suitable without the cordon either.
func (st Site) uncordonHint(kind *dataset.Kind) string {
	if kind != dataset.ErrOffline || len(st.Pools) == 0 || !st.Pools[0].Cordoned {
		return ""
	}
	return " (drover node cordon --off " + cmp.Or(st.Name, "NODE") + " ends that)"
}

// whyNone returns why no pool of a site meets a requirement, each reason once. If named is true, the text must be
// suitable for a list of nodes. ifOnline is true if a pool would meet the requirement once it and its node are online
// again.
func (st Site) whyNone(o Requirement, named bool) (line string, ifOnline bool) {
	var why reasons
	for _, c := range st.Pools {
		reason, once := st.WhyUnfit(c, o)
		ifOnline = ifOnline || once
		why.add(c.Name, reason)
	}
	switch {
	case len(st.Pools) == 0:
		return "it has no pool", false
	case !named:
		return why.text("pool", "; "), ifOnline
	case len(why.lines) == 1 && len(st.Pools) > 1:
		return why.lines[0], ifOnline
	}
	return why.text("pool", ", "), ifOnline
}
