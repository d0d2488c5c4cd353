package listing

import (
	"slices"
	"time"

	"github.com/spf13/cobra"
)

// A StreamFilter selects the items of a stream by the same --filter as a list.
type StreamFilter[T any] struct {
	keys    keys
	filters []filter
}

// NewStreamFilter parses the values of --filter. headers are the columns of the table. It fails with a usage error,
// which lists the valid keys, if a filter has another key.
func NewStreamFilter[T any](
	cmd *cobra.Command, now func() time.Time, headers, values []string) (*StreamFilter[T], error) {
	k := streamKeys[T](headers)
	filters, err := parseFilters(cmd, now, k, values, false, nil)
	return &StreamFilter[T]{k, filters}, err
}

// streamKeys returns the keys of the filters of a stream.
func streamKeys[T any](headers []string) keys {
	k := keys{columns: map[string]int{}, schema: schemaFor[T]()}
	k.addColumns(headers)
	return k
}

// Matches reports whether an item matches all filters. cells is its row of the table.
func (f *StreamFilter[T]) Matches(cells []string, item T) (bool, error) {
	if len(f.filters) == 0 {
		return true, nil
	}
	object, err := toObject(item)
	if err != nil {
		return false, err
	}
	return !slices.ContainsFunc(f.filters, func(x filter) bool { return !x.matches(f.keys, cells, object) }), nil
}

// CompleteStreamFilter completes the keys of --filter of cmd.
func CompleteStreamFilter[T any](cmd *cobra.Command, headers []string) {
	var words []string
	for _, key := range streamKeys[T](headers).names() {
		words = append(words, key+"=")
	}
	cobra.CheckErr(cmd.RegisterFlagCompletionFunc("filter",
		cobra.FixedCompletions(words, cobra.ShellCompDirectiveNoFileComp|cobra.ShellCompDirectiveNoSpace)))
}
