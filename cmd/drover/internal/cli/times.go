package cli

import (
	"slices"
	"time"

	"github.com/spf13/cobra"

	"github.com/droverhq/drover/dataset"
)

// A Moment tells --older-than and --newer-than which time of an item to compare.
type Moment[T any] struct {
	Of   func(T) time.Time // zero if the item has no such time; it is then never selected
	Verb string            // what happened to the item at that time, for the help, such as "taken"
}

// ages are the values of --older-than and --newer-than.
type ages struct{ older, newer string }

// addFlags gives a command the two flags.
func (g *ages) addFlags(cmd *cobra.Command, verb string) {
	f := cmd.Flags()
	f.StringVar(&g.older, "older-than", "", "list only what was "+verb+" more than `AGE` ago, such as 3d or 12h")
	f.StringVar(&g.newer, "newer-than", "", "list only what was "+verb+" within the last `AGE`")
}

// selector returns a function that reports whether a time matches both flags. It is nil if neither was given.
func (g *ages) selector(cmd *cobra.Command, now func() time.Time) (func(time.Time) bool, error) {
	if g.older == "" && g.newer == "" {
		return nil, nil
	}
	var before, after time.Time
	for _, age := range []struct {
		flag, value string
		bound       *time.Time
	}{{"older-than", g.older, &before}, {"newer-than", g.newer, &after}} {
		if age.value == "" {
			continue
		}
		d, err := ParseAge(cmd, age.flag, age.value)
		if err != nil {
			return nil, err
		}
		*age.bound = now().Add(-d)
	}
	return func(t time.Time) bool {
		return !t.IsZero() && (before.IsZero() || t.Before(before)) && (after.IsZero() || t.After(after))
	}, nil
}

// ParseAge parses the value of a flag that is an age. It fails with a usage error.
func ParseAge(cmd *cobra.Command, flag, value string) (time.Duration, error) {
	d, err := dataset.ParseDuration(value)
	if err != nil {
		return 0, UsageError(cmd, "--%s: %w", flag, err)
	}
	return d, nil
}

// selectAges removes the items whose time does not match the flags.
func (l List[T]) selectAges(matches func(time.Time) bool, items []T) []T {
	if matches == nil {
		return items
	}
	return slices.DeleteFunc(items, func(item T) bool { return !matches(l.Moment.Of(item)) })
}
