package listing

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/droverhq/drover/cmd/drover/internal/cli"
	"github.com/droverhq/drover/cmd/drover/internal/show"
)

// A List describes the ls command of a noun.
type List[T any] struct {
	Use   string // the word ls and the names of its arguments; if empty, only ls
	Short string
	Long  string // if empty, Short is used
	// ValidArgs completes the arguments. If it is nil, there are no completions.
	ValidArgs cobra.CompletionFunc

	// Fetch reads all items.
	Fetch func(context.Context, cli.Remote) ([]T, error)
	// Summaries is the same list with smaller items. They have only the fields that the table, -o wide, -o name,
	// labels and SortBy need. It is used for outputs that need no other fields. If it is nil, all outputs use
	// the items of this list.
	Summaries Runner
	// FetchMatching is set instead of Fetch if the items depend on arguments or on an expression, or are not read from
	// the API.
	FetchMatching func(*cobra.Command, Query) ([]T, error)
	// Local says that the items are not in the store of control. The list is then complete even if the store was lost.
	Local bool
	// Expressions says that a --filter that is not KEY=VALUE is an expression, which FetchMatching evaluates.
	Expressions bool

	ID   func(T) string // what -q prints
	Name func(T) string // printed by -o name; also the default order. If nil, ID is used
	// Compare is the order of the list without --sort. If it is nil, the list is ordered by name.
	Compare func(x, y T) int
	// Labels returns a function that returns the labels of an item. If it is nil, the items have no labels, and the
	// command has no --label.
	Labels func(context.Context, cli.Remote) (func(T) map[string]string, error)

	// Moment has the time of an item. If it is nil, the command has no --older-than and no --newer-than.
	Moment *Moment[T]
	// NoWatch says that New adds no --watch, because the command adds one.
	NoWatch bool
	// WatchPause is the time between two lists of --watch. If it is zero, it is 2 seconds.
	WatchPause time.Duration

	Table func([]T) *show.Table
	Wide  []Column[T] // the columns that -o wide adds
	// SortBy maps the key of a column (see columnKey) to a field of the JSON output. The list is sorted by that field
	// instead of the cells of the column, because cells such as "2 days ago" do not sort as text.
	SortBy map[string]string
}

// A Runner is a List of any type of items.
type Runner interface {
	run(a *cli.App, cmd *cobra.Command, o *options, args []string) error
}

// A Column is a column that only -o wide shows.
type Column[T any] struct {
	Header string
	Cell   func(T) string
}

// A Query is what the user asked for on the command line.
type Query struct {
	Args       []string // arguments of the command
	Expression string   // the filter that is an expression; empty if there is none
}

// OwnLabels is List.Labels for items that contain their labels.
func OwnLabels[T any](labels func(T) map[string]string) func(
	context.Context, cli.Remote) (func(T) map[string]string, error) {
	return func(context.Context, cli.Remote) (func(T) map[string]string, error) { return labels, nil }
}

// Help is the part of the help that all ls commands share.
const Help = `--filter and --sort accept the columns, also those of -o wide, and the fields of
-o json, such as status.used. In a value of --filter, * stands for any text;
KEY!=VALUE excludes items; state and status are the same key. Numbers, sizes,
percentages and times are compared: 'used>1GiB', 'use%>=80', 'created<7d' for
what is younger than 7 days. -o template=TEXT prints a Go template for each
item, such as template='{{.id}}'. Columns are names too, as in
template='table {{.Name}}\t{{.Size}}', which prints a table.`

// New makes the ls command of a noun.
func New[T any](a *cli.App, l List[T]) *cobra.Command {
	valid := l.ValidArgs
	if valid == nil {
		valid = cobra.NoFileCompletions
	}
	if l.Name == nil {
		l.Name = l.ID
	}
	cmd := &cobra.Command{
		Use:               cmp.Or(l.Use, "ls"),
		Short:             l.Short,
		Long:              cmp.Or(l.Long, l.Short+".") + "\n\n" + Help,
		Args:              cli.Args(0),
		ValidArgsFunction: valid,
	}
	if cmd.Name() == "ls" {
		cmd.Aliases = []string{"list"}
	}
	o := l.flags(a, cmd)
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		if o.watch {
			return l.watch(a, cmd, o, args)
		}
		return l.run(a, cmd, o, args)
	}
	return cmd
}

// options are the values of the flags of an ls command.
type options struct {
	filters, labels []string
	sort            string
	format          format
	quiet, watch    bool
	ages            ages
}

// flags gives an ls command its flags.
func (l List[T]) flags(a *cli.App, cmd *cobra.Command) *options {
	o := &options{format: format{name: formatTable}}
	f, what := cmd.Flags(), "`KEY=VALUE`"
	if l.Expressions {
		what = "KEY=VALUE or `EXPRESSION`"
	}
	f.StringArrayVar(&o.filters, "filter", nil, "list only what matches "+what+"; can be repeated")
	f.StringVar(&o.sort, "sort", "", "sort by `KEY`, or with -KEY in descending order")
	f.VarP(&o.format, "output", "o", "output format")
	f.BoolVarP(&o.quiet, "quiet", "q", false, "print only IDs")
	if !l.NoWatch {
		f.BoolVarP(&o.watch, "watch", "w", false, fmt.Sprintf(
			"print the list again every %d seconds until interrupted", l.watchPause()/time.Second))
	}
	if l.Moment != nil {
		o.ages.addFlags(cmd, l.Moment.Verb)
	}
	cli.CompleteFlag(cmd, "output", formats...)
	l.completeKeys(cmd)
	if l.Labels != nil {
		f.StringArrayVarP(&o.labels, "label", "l", nil,
			"list only what has the label `KEY[=VALUE]`, or another value: KEY!=VALUE; can be repeated")
		cobra.CheckErr(cmd.RegisterFlagCompletionFunc("label", l.completeLabels(a)))
	}
	return o
}

// completeLabels completes --label. Before the "=" it lists the keys of the labels of all items, and after it the
// values of the key.
func (l List[T]) completeLabels(a *cli.App) cobra.CompletionFunc {
	return func(cmd *cobra.Command, args []string, begun string) ([]string, cobra.ShellCompDirective) {
		const none = cobra.ShellCompDirectiveNoFileComp
		ctx, cancel := context.WithTimeout(cmd.Context(), cli.CompleteWithin)
		defer cancel()
		cmd.SetContext(ctx)
		items, err := l.fetch(a, cmd, Query{Args: args})
		if err != nil {
			return nil, none
		}
		c, err := a.Connect()
		if err != nil {
			return nil, none
		}
		of, err := l.Labels(ctx, c)
		if err != nil {
			return nil, none
		}
		words := map[string]bool{}
		for _, item := range items {
			for key, value := range of(item) {
				if strings.Contains(begun, "=") {
					key += "=" + value
				}
				if strings.HasPrefix(key, begun) {
					words[show.Clean(key)] = true
				}
			}
		}
		return slices.Sorted(maps.Keys(words)), none | cobra.ShellCompDirectiveNoSpace
	}
}

// completeKeys completes the keys of --filter and --sort.
func (l List[T]) completeKeys(cmd *cobra.Command) {
	complete := func(prefixes []string, suffix string, flags cobra.ShellCompDirective) cobra.CompletionFunc {
		return func(_ *cobra.Command, _ []string, begun string) (words []string, _ cobra.ShellCompDirective) {
			for _, key := range l.keys().names() {
				for _, p := range prefixes {
					if word := p + key + suffix; strings.HasPrefix(word, begun) {
						words = append(words, word)
					}
				}
			}
			return words, cobra.ShellCompDirectiveNoFileComp | flags
		}
	}
	cobra.CheckErr(cmd.RegisterFlagCompletionFunc("filter",
		complete([]string{""}, "=", cobra.ShellCompDirectiveNoSpace)))
	cobra.CheckErr(cmd.RegisterFlagCompletionFunc("sort", complete([]string{"", "-"}, "", 0)))
}

func (l List[T]) run(a *cli.App, cmd *cobra.Command, o *options, args []string) error {
	keys := l.keys()
	q := Query{Args: args}
	filters, err := parseFilters(cmd, a.Now, keys, o.filters, l.Expressions, &q.Expression)
	if err != nil {
		return err
	}
	labels, err := parseLabels(cmd, o.labels)
	if err != nil {
		return err
	}
	key, descending := strings.CutPrefix(o.sort, "-")
	if err := keys.checkSort(cmd, key, o.sort != ""); err != nil {
		return err
	}
	key = keys.canonical(key)
	text, err := parseTemplate(cmd, keys, o.format)
	if err != nil {
		return err
	}
	matches, err := o.ages.selector(cmd, a.Now)
	if err != nil {
		return err
	}
	_, isColumn := keys.columns[key]
	if l.Summaries != nil && o.format.showsColumns() && len(filters) == 0 && (key == "" || isColumn) {
		return l.Summaries.run(a, cmd, o, args)
	}
	storeNote := l.startStoreCheck(cmd.Context(), a)
	items, err := l.fetch(a, cmd, q)
	note := storeNote()
	if err != nil {
		return err
	}
	if note != "" {
		cli.PrintError(a.ErrOut, errors.New(note))
	}
	items = l.selectAges(matches, items)
	if items, err = l.selectLabels(a, cmd, labels, items); err != nil {
		return err
	}
	items, misses, err := l.selectAndSort(keys, filters, key, descending, items)
	if err != nil {
		return err
	}
	for _, miss := range misses {
		if !miss.exists(cmd.Context(), a) {
			cli.PrintError(a.ErrOut, errors.New(miss.note))
		}
	}
	return l.print(a, o, text, items)
}

// fetch reads the items, in the order of the list.
func (l List[T]) fetch(a *cli.App, cmd *cobra.Command, q Query) ([]T, error) {
	var items []T
	var err error
	if l.FetchMatching != nil {
		items, err = l.FetchMatching(cmd, q)
	} else {
		var c cli.Remote
		if c, err = a.Connect(); err == nil {
			items, err = l.Fetch(cmd.Context(), c)
		}
	}
	order := l.Compare
	if order == nil {
		order = func(x, y T) int { return strings.Compare(l.Name(x), l.Name(y)) }
	}
	if !slices.IsSortedFunc(items, order) { // a server sorts most lists, and moving large items takes long
		slices.SortStableFunc(items, order)
	}
	return items, err
}

func (l List[T]) selectLabels(a *cli.App, cmd *cobra.Command, labels []filter, items []T) ([]T, error) {
	if len(labels) == 0 {
		return items, nil
	}
	c, err := a.Connect()
	if err != nil {
		return nil, err
	}
	of, err := l.Labels(cmd.Context(), c)
	if err != nil {
		return nil, err
	}
	return slices.DeleteFunc(items, func(item T) bool {
		has := of(item)
		return slices.ContainsFunc(labels, func(f filter) bool {
			value, ok := has[f.key]
			return !ok || f.hasValue && f.negated == matchText(f.value, value)
		})
	}), nil
}

// selectAndSort returns the items that match all filters, sorted by a key unless it is empty, and the filters that seem
// to have a typing error. It only computes the cells and fields of items if there is a filter or a key.
func (l List[T]) selectAndSort(
	keys keys, filters []filter, key string, descending bool, items []T) (selected []T, misses []miss, err error) {
	if len(filters) == 0 && key == "" {
		return items, nil, nil
	}
	rows, err := makeRows(l.table(items, true), items)
	if err != nil {
		return nil, nil, err
	}
	var all [][]string
	for _, r := range rows {
		all = append(all, r.cells)
	}
	rows = slices.DeleteFunc(rows, func(r row[T]) bool {
		return slices.ContainsFunc(filters, func(f filter) bool { return !f.matches(keys, r.cells, r.object) })
	})
	if key != "" {
		sortRows(keys, rows, key, descending)
	}
	items = items[:0]
	for _, r := range rows {
		items = append(items, r.item)
	}
	for _, f := range filters {
		if note := f.nearMiss(keys, all); note != "" && len(rows) == 0 {
			misses = append(misses, miss{f, note})
		}
	}
	return items, misses, nil
}

// table returns the table of items, with the columns of -o wide if wide is set.
func (l List[T]) table(items []T, wide bool) *show.Table {
	t := l.Table(items)
	if !wide {
		return t
	}
	for _, c := range l.Wide {
		cells := make([]string, 0, len(items))
		for _, item := range items {
			cells = append(cells, c.Cell(item))
		}
		t.Column(c.Header, cells)
	}
	return t
}

// keys returns the keys of --filter and --sort.
func (l List[T]) keys() keys {
	k := keys{columns: map[string]int{}, sortBy: l.SortBy, schema: schemaFor[T]()}
	k.addColumns(l.table(nil, true).Headers())
	return k
}
