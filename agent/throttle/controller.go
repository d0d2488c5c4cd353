package throttle

import (
	"cmp"
	"errors"
	"io/fs"
	"slices"
	"strings"

	"github.com/droverhq/drover/dataset"
	"github.com/droverhq/drover/internal/linux/iolimit"
	"github.com/droverhq/drover/internal/linux/mount"
)

// Controller sets limits in the control groups of this host, and knows which limits the host can enforce. It does
// not change after New, so it needs no lock.
type Controller struct {
	Hierarchy        iolimit.Hierarchy
	HierarchyProblem error // why this host has no hierarchy for rules; nil if it has one
	// writebackProblem is the reason why the hierarchy does not limit all writes, or nil if it does. If
	// writebackProblem is not nil, Limit fails for every limited profile, but rules that were set earlier can still
	// be removed.
	writebackProblem error
	parents          []string // with version 2, the groups below which engines put containers
}

// newController detects the hierarchy of this host, unless cfg names one.
func newController(cfg Cgroups) *Controller {
	c := &Controller{Hierarchy: cfg.Hierarchy, parents: cfg.Parents}
	if c.Hierarchy.Dir == "" {
		table, err := mount.Table()
		if err == nil {
			c.Hierarchy, err = iolimit.Detect(table)
		}
		c.HierarchyProblem = err
	}
	if c.HierarchyProblem == nil {
		c.writebackProblem = c.Hierarchy.CheckWriteback()
	}
	if len(c.parents) == 0 {
		c.parents = []string{"/system.slice", "/docker"}
	}
	return c
}

// Kind returns which limits this host can enforce for volumes that have a separate block device. It returns "" if it
// can enforce none.
func (c *Controller) Kind() dataset.LimitEnforcement {
	if c.problem() != nil {
		return ""
	}
	return c.Hierarchy.Kind()
}

// problem returns why this host cannot limit volumes, or nil if it can.
func (c *Controller) problem() error { return cmp.Or(c.HierarchyProblem, c.writebackProblem) }

// enableBaseGroups returns the groups that get a rule no matter which container uses the volume. With version 1, that
// is the root group, to which the kernel's own writes belong. With version 2, enableBaseGroups enables the controller
// in the parents of all containers and returns them.
func (c *Controller) enableBaseGroups() ([]string, error) {
	if c.Hierarchy.Version == iolimit.V1 {
		return c.baseGroups(), nil
	}
	var groups []string
	var errs []error
	for _, p := range c.parents {
		err := c.Hierarchy.Enable(p)
		if err == nil {
			groups = append(groups, p)
		} else if !errors.Is(err, fs.ErrNotExist) {
			errs = append(errs, err)
		}
	}
	if len(groups) == 0 {
		errs = append(errs, dataset.Errorf(dataset.ErrUnsupported,
			"none of the control groups %s exists (set cgroup_parents in drover.yaml to those of your engine's "+
				"containers)", dataset.FormatChoices(c.parents)))
	}
	if len(errs) > 0 {
		return nil, errors.Join(errs...)
	}
	return groups, nil
}

// baseGroups returns the same groups as enableBaseGroups, but does not enable the controller in them. It also returns
// groups that do not exist.
func (c *Controller) baseGroups() []string {
	if c.Hierarchy.Version == iolimit.V1 {
		return []string{iolimit.Root}
	}
	return c.parents
}

// Covers reports whether the processes of group g need no separate rule. That is so if a rule on one of groups limits
// them, or if g is the root group of version 2.
func (c *Controller) Covers(groups []string, g string) bool {
	return slices.ContainsFunc(groups, func(has string) bool {
		return has == g || c.Hierarchy.Version == iolimit.V2 && iolimit.Below(g, has)
	}) || c.Hierarchy.Version == iolimit.V2 && g == iolimit.Root
}

// groupsOutside returns the used groups that are not below one of the parents. Only the parents get a rule before a
// container starts. With version 1, groupsOutside returns no group.
func (c *Controller) groupsOutside(used []string) (groups []string) {
	if c.Hierarchy.Version != iolimit.V2 {
		return nil
	}
	for _, g := range used {
		if !slices.ContainsFunc(c.parents, func(p string) bool { return iolimit.Below(g, p) }) && c.Hierarchy.Has(g) {
			groups = append(groups, g)
		}
	}
	return groups
}

// set sets the rules of a record in groups. It skips groups that no longer exist.
func (c *Controller) set(rec LimitRecord, groups []string) error {
	var errs []error
	for _, g := range groups {
		if err := c.Hierarchy.Set(g, rec.Device, rec.Limits); err != nil && !errors.Is(err, fs.ErrNotExist) {
			errs = append(errs, err)
		}
	}
	return errors.Join(errs...)
}

// clear removes the rules of a record from its groups.
func (c *Controller) clear(rec LimitRecord) error {
	var errs []error
	for _, g := range rec.Groups {
		errs = append(errs, c.Hierarchy.Clear(g, rec.Device))
	}
	return errors.Join(errs...)
}

// strictLimitNote tells the operator that a strict limit does not apply in some groups. outside is the result of
// groupsOutside.
func (c *Controller) strictLimitNote(outside []string) string {
	return "its profile has qos strict, and it is used in control group " + strings.Join(outside, ", ") +
		", which is outside of " + strings.Join(c.parents, ", ") +
		": it is throttled separately there, from about a second after its start"
}
