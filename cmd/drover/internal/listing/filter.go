package listing

import (
	"context"
	"fmt"
	"maps"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/google/uuid"
	"github.com/spf13/cobra"

	"github.com/droverhq/drover/cmd/drover/internal/cli"
	"github.com/droverhq/drover/control/api"
	"github.com/droverhq/drover/dataset"
)

// A filter is one --filter or --label.
type filter struct {
	key      string
	value    string // * stands for any text
	hasValue bool   // if false, the label only has to exist
	negated  bool   // KEY!=VALUE
	compare  *comparison
}

// pairRE matches KEY=VALUE and KEY!=VALUE. It does not match a comparison of an expression, such as cpus >= 4 and
// architecture=="x86_64".
var pairRE = regexp.MustCompile(`^([A-Za-z0-9_.%/-]+)(!?=)([^=].*)?$`)

// parseFilters parses the values of --filter. If expressions is set, one of them may be an expression instead, which is
// stored in expression.
func parseFilters(cmd *cobra.Command, now func() time.Time, keys keys, values []string, expressions bool,
	expression *string) ([]filter, error) {
	var out []filter
	for _, v := range values {
		m := pairRE.FindStringSubmatch(v)
		isExpression := expressions && (m == nil || m[2] == "!=" && strings.HasPrefix(m[3], `"`))
		switch {
		case strings.TrimSpace(v) == "" && expressions:
			return nil, cli.UsageError(cmd, "--filter: the expression is empty")
		case isExpression && *expression != "":
			return nil, cli.UsageError(cmd, "--filter %q: only one filter can be an expression; join both with and",
				dataset.Clip(v))
		case isExpression:
			*expression = v
			continue
		case m == nil && comparisonRE.MatchString(v), m != nil && strings.ContainsAny(m[3], "<>") &&
			comparisonRE.MatchString(v):
			f, err := keys.parseComparison(cmd, now, v)
			if err != nil {
				return nil, err
			}
			out = append(out, f)
			continue
		case m == nil:
			return nil, cli.UsageError(cmd, "--filter %q: expected KEY=VALUE or KEY!=VALUE, such as %s%s",
				dataset.Clip(v), exampleFilter(keys), exampleComparison(keys))
		}
		if err := keys.check(cmd, "filter", m[1]); err != nil {
			return nil, err
		}
		out = append(out, filter{key: m[1], value: m[3], hasValue: true, negated: m[2] == "!="})
	}
	return out, nil
}

// exampleFilter returns a filter that the list accepts.
func exampleFilter(k keys) string {
	for key, value := range map[string]string{"name": "name='db*'", "volume": "volume=db"} {
		if _, ok := k.columns[key]; ok {
			return value
		}
	}
	return fmt.Sprintf("%s=VALUE", k.names()[0])
}

// parseLabels parses the values of --label.
func parseLabels(cmd *cobra.Command, values []string) ([]filter, error) {
	var out []filter
	for _, v := range values {
		key, value, hasValue := strings.Cut(v, "=")
		key, negated := strings.CutSuffix(key, "!")
		if err := dataset.CheckLabel(key); err != nil {
			return nil, cli.UsageError(cmd, "--label: %w", err)
		}
		out = append(out, filter{key: key, value: value, hasValue: hasValue, negated: negated && hasValue})
	}
	return out, nil
}

// matches reports whether one of the item's values for the key matches the filter or, for KEY!=VALUE, none. The keys
// state and status are interchangeable, because some lists have a column STATE and others a column STATUS.
func (f filter) matches(k keys, cells []string, item any) bool {
	if f.compare != nil {
		return f.compare.matches(k, cells, item)
	}
	found := f.matchesKey(k, k.canonical(f.key), cells, item)
	if other := otherKey[f.key]; other != "" && !found {
		found = f.matchesKey(k, other, cells, item)
	}
	return found != f.negated
}

// otherKey has the interchangeable keys.
var otherKey = map[string]string{"state": "status", "status": "state"}

// matchesKey reports whether one of the values that key names matches the filter: those of the cell, or of the field.
func (f filter) matchesKey(k keys, key string, cells []string, item any) bool {
	found := false
	if i, ok := k.columns[key]; ok {
		cell := cells[i]
		if cell == "-" {
			cell = ""
		}
		found = matchText(f.value, cell) || otherKey[key] != "" && f.matchesPart(cell)
	}
	if s := k.schema.find(key); s != nil && s.kind != object && !found {
		for _, text := range texts(item, key) {
			found = found || matchText(f.value, text) || matchSize(f.value, text) ||
				text == "" && s.kind == scalar && f.value == fmt.Sprint(s.zero)
		}
	}
	return found
}

// matchesPart reports whether a part of a status matches the filter. "in use by 2, FULL" has the parts "in use by 2",
// "in use" and "FULL".
func (f filter) matchesPart(status string) bool {
	return slices.ContainsFunc(strings.Split(status, ", "), func(part string) bool {
		short, _, _ := strings.Cut(part, " by ")
		return matchText(f.value, part) || matchText(f.value, short) || oneWord(f.value) == oneWord(short)
	})
}

// oneWord returns a status without spaces and dashes, because "in use" is typed as in-use and inuse too.
func oneWord(status string) string {
	return strings.NewReplacer(" ", "", "-", "", "_", "").Replace(strings.ToLower(status))
}

// nearMiss returns a note about a filter whose value no item has: a similar value in the same column or, if the column
// has only a few values, these values. Without the note, a typing error looks like an empty list.
func (f filter) nearMiss(k keys, rows [][]string) string {
	i, ok := k.columns[k.canonical(f.key)]
	if !ok && otherKey[f.key] != "" {
		i, ok = k.columns[otherKey[f.key]]
	}
	if !ok || f.negated || f.compare != nil || strings.Contains(f.value, "*") {
		return ""
	}
	values := map[string]bool{}
	for _, cells := range rows {
		if matchText(f.value, cells[i]) {
			return ""
		}
		values[cells[i]] = true
	}
	delete(values, "-")
	present := slices.Sorted(maps.Keys(values))
	hint := dataset.Suggestion(f.value, present)
	if hint == "" && len(present) > 0 && len(present) <= fewValues {
		hint = fmt.Sprintf(" (present: %s)", dataset.FormatChoices(present))
	}
	if hint == "" {
		return ""
	}
	return fmt.Sprintf("nothing has %s %q%s", f.key, dataset.Clip(f.value), hint)
}

// A miss is a filter that seems to have a typing error, and the note about it.
type miss struct {
	filter
	note string
}

// exists reports whether the value of the filter names a node, pool or profile that exists. Then the list is empty
// because the node, pool or profile has no such items. exists asks the server only for these keys. If the server cannot
// answer, exists returns false.
func (m miss) exists(ctx context.Context, a *cli.App) bool {
	key := strings.ToLower(m.key)
	if key != "node" && key != "pool" && key != "profile" {
		return false
	}
	c, err := a.Connect()
	if err != nil {
		return false
	}
	var names []string
	switch key {
	case "node":
		var nodes []api.Node
		nodes, err = c.NodeList(ctx, "")
		for _, n := range nodes {
			names = append(names, n.Name)
		}
	case "pool":
		var pools []api.Pool
		pools, err = c.Pools(ctx)
		for _, p := range pools {
			names = append(names, p.Name)
		}
	case "profile":
		var profiles []api.ListedProfile
		profiles, err = c.Profiles(ctx)
		for _, p := range profiles {
			names = append(names, p.Name)
		}
	}
	return err == nil && slices.ContainsFunc(names, func(name string) bool { return matchText(m.value, name) })
}

// fewValues is the number of values that a note lists at most.
const fewValues = 6

// matchText compares a text with a pattern and ignores case. In the pattern, * stands for any text. A UUID also matches
// its prefixes.
func matchText(pattern, text string) bool {
	pattern, text = strings.ToLower(pattern), strings.ToLower(text)
	if uuid.Validate(text) == nil && dataset.CheckPrefix(pattern) == nil {
		return strings.HasPrefix(text, pattern)
	}
	parts := strings.Split(pattern, "*")
	if len(parts) == 1 {
		return pattern == text
	}
	last := parts[len(parts)-1]
	rest, ok := strings.CutPrefix(text, parts[0])
	for _, p := range parts[1 : len(parts)-1] {
		if !ok {
			return false
		}
		_, rest, ok = strings.Cut(rest, p)
	}
	return ok && strings.HasSuffix(rest, last)
}

// matchSize reports whether a number of bytes is the size in a filter, such as 20GiB.
func matchSize(size, number string) bool {
	s, err := dataset.ParseSize(size)
	return err == nil && fmt.Sprint(int64(s)) == number
}
