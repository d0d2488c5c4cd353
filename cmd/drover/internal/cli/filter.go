package cli

import (
	"regexp"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"github.com/droverhq/drover/dataset"
)

// labelKey is the key of --filter for labels, as in Docker: label=KEY or label=KEY=VALUE.
const labelKey = "label"

// A Filter selects items by the values of --filter. As in Docker, an item must match each key, and for a key one of its
// values, but all labels.
type Filter[T any] struct {
	columns  []Column[T]
	patterns map[string][]*regexp.Regexp // by key of the column
	labels   map[string]*regexp.Regexp   // nil: the label only has to exist
}

// ParseFilter parses the values of --filter. It fails with a usage error, which lists the valid keys, if a value has
// another key. labelled reports whether the items have labels.
func ParseFilter[T any](cmd *cobra.Command, columns []Column[T], labelled bool, values []string) (Filter[T], error) {
	f := Filter[T]{columns, map[string][]*regexp.Regexp{}, map[string]*regexp.Regexp{}}
	for _, v := range values {
		key, value, isPair := strings.Cut(v, "=")
		key = strings.ToLower(strings.TrimSpace(key))
		switch _, known := find(columns, key); {
		case !isPair:
			return f, UsageError(cmd, "--filter %q: expected KEY=VALUE, such as %s=VALUE", dataset.Clip(v),
				columns[0].key())
		case labelled && key == labelKey:
			label, text, hasValue := strings.Cut(value, "=")
			if err := dataset.CheckLabel(label); err != nil {
				return f, UsageError(cmd, "--filter: %w", err)
			}
			f.labels[label] = nil
			if hasValue {
				f.labels[label] = pattern(text)
			}
		case !known:
			return f, UnknownWord(cmd, "key", "--filter", key, filterKeys(columns, labelled))
		default:
			f.patterns[key] = append(f.patterns[key], pattern(value))
		}
	}
	return f, nil
}

// pattern returns what matches a value of --filter: the text, apart from case. * stands for any text.
func pattern(value string) *regexp.Regexp {
	return regexp.MustCompile("(?is)^" + strings.ReplaceAll(regexp.QuoteMeta(value), `\*`, ".*") + "$")
}

func filterKeys[T any](columns []Column[T], labelled bool) []string {
	if labelled {
		return append(keys(columns), labelKey)
	}
	return keys(columns)
}

// Matches reports whether an item with these labels matches.
func (f Filter[T]) Matches(item T, labels map[string]string) bool {
	for key, patterns := range f.patterns {
		c, _ := find(f.columns, key)
		cell, whole := c.cell(item), c.whole(item)
		if !slices.ContainsFunc(patterns, func(p *regexp.Regexp) bool {
			return p.MatchString(cell) || p.MatchString(whole)
		}) {
			return false
		}
	}
	for key, p := range f.labels {
		value, has := labels[key]
		if !has || p != nil && !p.MatchString(value) {
			return false
		}
	}
	return true
}

// CompleteFilter completes the keys of --filter.
func CompleteFilter[T any](cmd *cobra.Command, columns []Column[T], labelled bool) {
	cobra.CheckErr(cmd.RegisterFlagCompletionFunc("filter",
		func(_ *cobra.Command, _ []string, begun string) (words []string, _ cobra.ShellCompDirective) {
			for _, key := range filterKeys(columns, labelled) {
				if strings.HasPrefix(key+"=", begun) {
					words = append(words, key+"=")
				}
			}
			return words, cobra.ShellCompDirectiveNoFileComp | cobra.ShellCompDirectiveNoSpace
		}))
}
