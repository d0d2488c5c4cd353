package listing

import (
	"fmt"
	"maps"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/droverhq/drover/cmd/drover/internal/cli"
	"github.com/droverhq/drover/dataset"
)

// A comparison is a --filter such as used>1GiB, use%>=80 or created<7d.
type comparison struct {
	key      string // the key of the list, see keys.canonical
	kind     valueKind
	operator string // <, <=, > or >=
	bound    float64
}

// comparisonRE matches a filter that compares. Its groups are the key, the operator and the value. The operators => and
// =< are matched for their error.
var comparisonRE = regexp.MustCompile(`^ *([A-Za-z0-9_.%/-]+) *(>=|<=|=>|=<|<|>) *(.*?) *$`)

// parseComparison parses a filter that matches comparisonRE.
func (k keys) parseComparison(cmd *cobra.Command, now func() time.Time, text string) (filter, error) {
	m := comparisonRE.FindStringSubmatch(text)
	typed, operator, value := m[1], m[2], m[3]
	key := k.canonical(typed)
	kind, ok := k.comparableKind(key)
	if !ok {
		if err := k.check(cmd, "filter", typed); err != nil {
			return filter{}, err
		}
		return filter{}, cli.UsageError(cmd, "--filter %q: %s cannot be compared (available: %s)", dataset.Clip(text),
			typed, dataset.FormatChoices(k.comparableNames()))
	}
	if strings.HasPrefix(operator, "=") {
		return filter{}, cli.UsageError(cmd, "--filter %q: use %s", dataset.Clip(text),
			quoted(typed+operator[1:]+"="+value))
	}
	c := comparison{key: key, kind: kind, operator: operator}
	if value == "" {
		return filter{}, cli.UsageError(cmd, "--filter %q: the value is missing, such as %s", dataset.Clip(text),
			quoted(typed+operator+exampleValues[kind]))
	}
	err := c.parseBound(now, value)
	if err != nil && strings.HasSuffix(value, "%") && k.has("use%") {
		err = fmt.Errorf("%s is no percentage (use %s)", typed, quoted("use"+operator+value))
	}
	if err != nil {
		return filter{}, cli.UsageError(cmd, "--filter %q: %w", dataset.Clip(text), err)
	}
	return filter{key: key, value: value, hasValue: true, compare: &c}, nil
}

// exampleValues are values for the messages.
var exampleValues = map[valueKind]string{numberValue: "10", sizeValue: "1GiB", timeValue: "7d", durationValue: "1h"}

// parseBound parses the value of the comparison. An age such as 7d becomes a time, and turns the operator around: an
// item that is younger than 7 days was created after that time.
func (c *comparison) parseBound(now func() time.Time, value string) error {
	switch c.kind {
	case numberValue:
		f, err := strconv.ParseFloat(strings.TrimSuffix(value, "%"), 64)
		if err != nil {
			return fmt.Errorf("%q is not a number", dataset.Clip(value))
		}
		c.bound = f
		return nil
	case sizeValue:
		if value == "0" {
			return nil
		}
		size, err := dataset.ParseSize(value)
		c.bound = float64(size)
		return err
	case timeValue:
		_, notAge := dataset.ParseDuration(value)
		at, err := cli.ParseTime(now(), "filter", value)
		if err != nil {
			return fmt.Errorf("expected an age, such as 30m or 7d, or a time, such as 2026-03-01")
		}
		if c.bound = float64(at.UnixNano()); notAge == nil {
			c.operator = strings.NewReplacer("<", ">", ">", "<").Replace(c.operator)
		}
		return nil
	case durationValue:
		d, err := dataset.ParseDuration(value)
		c.bound = float64(d)
		return err
	case otherValue, flagValue, uuidValue, textValue:
	}
	return fmt.Errorf("its values cannot be compared")
}

// matches reports whether the comparison is true for one of the values of the key. An item without a value never
// matches.
func (c *comparison) matches(k keys, cells []string, item any) bool {
	values := []string{}
	column, isColumn := k.columns[c.key]
	switch field := k.fieldOf(c.key); {
	case isColumn && cells[column] == "-": // the free space of a pool that is offline
	case field != "":
		values = texts(item, field)
	case isColumn:
		values = []string{cells[column]}
	}
	return slices.ContainsFunc(values, func(text string) bool {
		v, ok := c.parseValue(text)
		switch {
		case !ok:
			return false
		case c.operator == "<":
			return v < c.bound
		case c.operator == "<=":
			return v <= c.bound
		case c.operator == ">":
			return v > c.bound
		}
		return v >= c.bound
	})
}

// parseValue parses the text of a field or of a cell. ok is false if the text has no value.
func (c *comparison) parseValue(text string) (value float64, ok bool) {
	switch c.kind {
	case timeValue:
		t, err := time.Parse(time.RFC3339Nano, text)
		return float64(t.UnixNano()), err == nil && !t.IsZero()
	case durationValue:
		d, err := time.ParseDuration(text)
		return float64(d), err == nil
	case numberValue, sizeValue, otherValue, flagValue, uuidValue, textValue:
	}
	text, _, _ = strings.Cut(text, ",") // the overcommit of a pool: 0.3, at most 1.5
	if f, err := strconv.ParseFloat(strings.TrimSuffix(strings.TrimSuffix(text, "%"), "B"), 64); err == nil {
		return f, true
	}
	size, err := dataset.ParseSize(text)
	return float64(size), err == nil
}

// fieldOf returns the field of the JSON output whose value is compared for a key, or "" if it is that of the cell.
func (k keys) fieldOf(key string) string {
	if field, ok := k.sortBy[key]; ok {
		return field
	}
	if s := k.schema.find(key); s != nil && s.leaf() {
		return key
	}
	return ""
}

// leaf reports whether s is a scalar, or an array of scalars.
func (s *schema) leaf() bool { return s.kind == scalar || s.kind == array && s.items.kind == scalar }

// cellKinds are the columns whose cells are compared, because no field has their value.
var cellKinds = map[string]valueKind{
	"use%": numberValue, "used": sizeValue, "overcommit": numberValue, "cpus": numberValue, "load": numberValue,
}

// comparableKind returns the kind of the values of a key. ok is false if they cannot be compared.
func (k keys) comparableKind(key string) (kind valueKind, ok bool) {
	if field := k.fieldOf(key); field != "" {
		s := k.schema.find(field)
		if s != nil && s.kind == array {
			s = s.items
		}
		if s != nil {
			kind = s.value
		}
	} else if _, isColumn := k.columns[key]; isColumn {
		kind = cellKinds[key]
	}
	return kind, exampleValues[kind] != ""
}

// has reports whether the list has a column.
func (k keys) has(column string) bool {
	_, ok := k.columns[column]
	return ok
}

// comparableNames returns the keys whose values can be compared, sorted.
func (k keys) comparableNames() []string {
	all := map[string]bool{}
	for _, name := range k.names() {
		if _, ok := k.comparableKind(name); ok {
			all[name] = true
		}
	}
	return slices.Sorted(maps.Keys(all))
}

// exampleComparison returns a part of a message with a comparison that the list accepts, or "".
func exampleComparison(k keys) string {
	for _, key := range []string{"size", "use%", "created", "started", "time"} {
		if kind, ok := k.comparableKind(key); ok {
			return ", or a comparison in quotes, such as " + quoted(key+">"+exampleValues[kind])
		}
	}
	return ""
}

// quoted returns a filter as a person types it in a shell, which would take < and > for redirections.
func quoted(filter string) string {
	return "'" + strings.ReplaceAll(dataset.Clip(filter), "'", "") + "'"
}
