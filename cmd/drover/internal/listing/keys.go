package listing

import (
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"github.com/droverhq/drover/cmd/drover/internal/cli"
	"github.com/droverhq/drover/cmd/drover/internal/show"
	"github.com/droverhq/drover/dataset"
)

// keys are the words with which the items of a list can be filtered and sorted.
type keys struct {
	columns map[string]int    // the position of each column of the table, by its key
	headers []string          // the headers of the columns, in their order
	sortBy  map[string]string // List.SortBy
	schema  *schema           // the fields of the JSON output
}

// columnKey returns the key of a column: its header in lower case, with _ between words.
func columnKey(header string) string {
	return strings.ReplaceAll(strings.ToLower(header), " ", "_")
}

// addColumns adds the columns of a table.
func (k *keys) addColumns(headers []string) {
	for _, h := range headers {
		k.columns[columnKey(h)] = len(k.headers)
		k.headers = append(k.headers, h)
	}
}

// names returns the columns and the fields of the JSON output, sorted. It leaves out the fields of nested objects.
func (k keys) names() []string {
	names := slices.Collect(maps.Keys(k.columns))
	for _, n := range k.schema.names {
		if f := k.schema.fields[n]; f.kind == scalar || f.kind == array && f.items.kind == scalar {
			names = append(names, n)
		}
	}
	slices.Sort(names)
	return slices.Compact(names)
}

// canonical returns the key of the list that a key of the user means. If the list does not have the key, status means
// state, state means status, name means volume, and use means use%. If the list does not have that key either,
// canonical returns key.
func (k keys) canonical(key string) string {
	has := func(key string) bool {
		_, ok := k.columns[key]
		s := k.schema.find(key)
		return ok || s != nil && s.kind != object
	}
	other := otherKey[key]
	switch key {
	case "name":
		other = "volume"
	case "use":
		other = "use%"
	}
	if other != "" && !has(key) && has(other) {
		return other
	}
	return key
}

// check fails with a usage error unless key is a column or a field that has a value.
func (k keys) check(cmd *cobra.Command, flag, key string) error {
	key = k.canonical(key)
	if _, ok := k.columns[key]; ok {
		return nil
	}
	switch f := k.schema.find(key); {
	case flag == "filter" && f == nil && key != "" && cmd.Flags().Lookup("label") != nil &&
		dataset.Nearest(key, k.names()) == "":
		return cli.UsageError(cmd, "unknown key %q for --filter (for a label: --label %[1]s=VALUE; available: %[2]s)",
			dataset.Clip(key), dataset.FormatChoices(k.names()))
	case f == nil || key == "":
		return cli.UnknownWord(cmd, "key", "--"+flag, key, k.names())
	case f.kind == object || f.kind == array && f.items.kind == object:
		names := f.names
		if f.items != nil {
			names = f.items.names
		}
		return cli.UsageError(cmd, "--%s %s: expected one of its fields (available: %s.%s)", flag, key, key,
			strings.Join(names, ", "+key+"."))
	}
	return nil
}

// checkSort fails with a usage error unless the list can be sorted by key. given reports whether the flag was used.
func (k keys) checkSort(cmd *cobra.Command, key string, given bool) error {
	if !given {
		return nil
	}
	return k.check(cmd, "sort", key)
}

// A row is an item with its values.
type row[T any] struct {
	item   T
	cells  []string // cells of the table, without colours
	object any      // the item as JSON
}

func makeRows[T any](t *show.Table, items []T) ([]row[T], error) {
	cells := t.Cells()
	if len(cells) != len(items) {
		return nil, fmt.Errorf("the table has %d rows for %d items", len(cells), len(items))
	}
	rows := make([]row[T], 0, len(items))
	for i, item := range items {
		o, err := toObject(item)
		if err != nil {
			return nil, err
		}
		rows = append(rows, row[T]{item, cells[i], o})
	}
	return rows, nil
}

// sortText returns the text by which a row is sorted: the text of the field or of the cell that the key names.
func (k keys) sortText(key string, cells []string, object any) string {
	if field, ok := k.sortBy[key]; ok {
		return strings.Join(texts(object, field), " ")
	}
	if i, ok := k.columns[key]; ok {
		return cells[i]
	}
	return strings.Join(texts(object, key), " ")
}
