package cli

import (
	"cmp"
	"slices"
	"strings"

	"github.com/spf13/cobra"
)

// parseSort parses the value of --sort, KEY[,KEY], and returns the order of the items. It returns nil for "".
func parseSort[T any](cmd *cobra.Command, columns []Column[T], value string) (func(x, y T) int, error) {
	if value == "" {
		return nil, nil
	}
	var orders []func(x, y T) int
	for key := range strings.SplitSeq(value, ",") {
		key, descending := strings.CutPrefix(key, "-")
		c, known := find(columns, strings.ToLower(key))
		if !known {
			return nil, UnknownWord(cmd, "key", "--sort", key, keys(columns))
		}
		orders = append(orders, c.order(descending))
	}
	return func(x, y T) int {
		for _, order := range orders {
			if n := order(x, y); n != 0 {
				return n
			}
		}
		return 0
	}, nil
}

// order returns the order by a column. Items without a value come last.
func (c Column[T]) order(descending bool) func(x, y T) int {
	return func(x, y T) int {
		first, second := c.whole(x), c.whole(y)
		switch {
		case first == "" || second == "":
			return cmp.Compare(len(second), 0) - cmp.Compare(len(first), 0)
		case descending:
			x, y, first, second = y, x, second, first
		}
		if c.Compare != nil {
			return c.Compare(x, y)
		}
		return cmp.Or(cmp.Compare(strings.ToLower(first), strings.ToLower(second)), cmp.Compare(first, second))
	}
}

// completeSort completes the last key of --sort.
func completeSort[T any](cmd *cobra.Command, columns []Column[T]) {
	cobra.CheckErr(cmd.RegisterFlagCompletionFunc("sort",
		func(_ *cobra.Command, _ []string, begun string) (words []string, _ cobra.ShellCompDirective) {
			before := begun[:strings.LastIndex(begun, ",")+1]
			for _, key := range keys(columns) {
				for _, word := range []string{before + key, before + "-" + key} {
					if strings.HasPrefix(word, begun) {
						words = append(words, word)
					}
				}
			}
			slices.Sort(words)
			return words, cobra.ShellCompDirectiveNoFileComp
		}))
}
