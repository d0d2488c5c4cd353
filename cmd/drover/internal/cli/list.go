package cli

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/droverhq/drover/control/api"
	"github.com/droverhq/drover/dataset"
)

// A List describes the ls command of a noun.
type List[T any] struct {
	Use   string // the word ls and the names of its arguments; if empty, only ls
	Short string
	Long  string // if empty, the help has only Short
	// ValidArgs completes the arguments. If it is nil, there are no completions.
	ValidArgs cobra.CompletionFunc

	// Fetch reads the items. See FromServer.
	Fetch func(*cobra.Command, ListQuery) ([]T, error)
	// Local says that the items are not in the store of control. The list is then complete even if the store was lost.
	Local bool

	ID func(T) string // what -q prints
	// Columns returns the columns of a table of these items. It is called without items for the keys and names.
	Columns func(items []T) []Column[T]
	// Object returns what -o json prints for an item. If it is nil, that is the item.
	Object func(T) any
	// Compare is the order of the list without --sort.
	Compare func(x, y T) int
	// Labels returns a function that returns the labels of an item. If it is nil, the items have no labels.
	Labels Labels[T]

	// Moment has the time of an item. If it is nil, the command has no --older-than and no --newer-than.
	Moment *Moment[T]
	// NoWatch says that New adds no --watch, because the command adds one.
	NoWatch bool
	// WatchPause is the time between two lists of --watch. If it is zero, it is 2 seconds.
	WatchPause time.Duration
}

// ListQuery is what the user asked for on the command line.
type ListQuery struct {
	Args []string // arguments of the command
	// Objects says that the items are printed as JSON or YAML, Table that they are printed as a table. For -q and
	// --format, both are false.
	Objects, Table bool
}

// FromServer returns a List.Fetch that asks the server.
func FromServer[T any](a *App, fetch func(context.Context, Remote, ListQuery) ([]T, error)) func(
	*cobra.Command, ListQuery) ([]T, error) {
	return func(cmd *cobra.Command, q ListQuery) ([]T, error) {
		c, err := a.Connect()
		if err != nil {
			return nil, err
		}
		return fetch(cmd.Context(), c, q)
	}
}

// New makes the ls command of a noun.
func New[T any](a *App, l List[T]) *cobra.Command {
	valid := l.ValidArgs
	if valid == nil {
		valid = cobra.NoFileCompletions
	}
	cmd := &cobra.Command{
		Use:               cmp.Or(l.Use, "ls"),
		Short:             l.Short,
		Long:              l.Long,
		Args:              Args(0),
		ValidArgsFunction: valid,
	}
	if cmd.Name() == "ls" {
		cmd.Aliases = []string{"list"}
	}
	o := l.flags(cmd)
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		if o.watch {
			return l.watch(a, cmd, o, args)
		}
		return l.run(a, cmd, o, args)
	}
	return cmd
}

// options are the values of the flags of an ls command.
type listOptions struct {
	filters      []string
	sort         string
	format       listFormat
	template     string
	quiet, watch bool
	ages         ages
}

// flags gives an ls command its flags.
func (l List[T]) flags(cmd *cobra.Command) *listOptions {
	o := &listOptions{format: listAsTable}
	f, columns := cmd.Flags(), l.Columns(nil)
	label := ""
	if l.Labels != nil {
		label = ", or label=KEY[=VALUE]"
	}
	f.StringArrayVar(&o.filters, "filter", nil,
		"list only what matches `KEY=VALUE`: a column, with * for any text"+label+"; can be repeated")
	f.StringVar(&o.sort, "sort", "", "sort by the columns `KEY[,KEY]`, with -KEY in descending order")
	f.VarP(&o.format, "output", "o", "output format")
	f.StringVar(&o.template, "format", "",
		"print the columns with a Go `TEMPLATE`: '{{.Name}}', table TEMPLATE, or json")
	f.BoolVarP(&o.quiet, "quiet", "q", false, "print only IDs")
	if !l.NoWatch {
		f.BoolVarP(&o.watch, "watch", "w", false, fmt.Sprintf(
			"print the list again every %d seconds until interrupted", l.watchPause()/time.Second))
	}
	if l.Moment != nil {
		o.ages.addFlags(cmd, l.Moment.Verb)
	}
	CompleteFlag(cmd, "output", formats...)
	CompleteFilter(cmd, columns, l.Labels != nil)
	completeSort(cmd, columns)
	return o
}

func (l List[T]) run(a *App, cmd *cobra.Command, o *listOptions, args []string) error {
	columns := l.Columns(nil)
	filter, err := ParseFilter(cmd, columns, l.Labels != nil, o.filters)
	if err != nil {
		return err
	}
	order, err := parseSort(cmd, columns, o.sort)
	if err != nil {
		return err
	}
	var text *itemTemplate[T]
	if o.template != "" {
		if text, err = l.parseTemplate(cmd, o.template); err != nil {
			return err
		}
	}
	matches, err := o.ages.selector(cmd, a.Now)
	if err != nil {
		return err
	}
	objects := text == nil && (o.format == listJSON || o.format == listYAML)
	storeNote := l.startStoreCheck(cmd.Context(), a)
	items, err := l.Fetch(cmd, ListQuery{Args: args, Objects: objects, Table: text == nil && !objects && !o.quiet})
	note := storeNote()
	if err != nil {
		return err
	}
	if note != "" {
		PrintError(a.ErrOut, errors.New(note))
	}
	items = l.selectAges(matches, items)
	filter.columns = l.Columns(items) // these cells have the UUIDs as short as the table
	if items, err = l.selected(a, cmd, filter, items); err != nil {
		return err
	}
	if !slices.IsSortedFunc(items, l.Compare) { // a server sorts most lists, and moving large items takes long
		slices.SortStableFunc(items, l.Compare)
	}
	if order != nil {
		slices.SortStableFunc(items, order)
	}
	return l.print(a, o, text, items)
}

// selected returns the items that match a filter. The labels are only read if the filter has labels.
func (l List[T]) selected(a *App, cmd *cobra.Command, filter Filter[T], items []T) ([]T, error) {
	labels := func(T) map[string]string { return nil }
	if len(filter.labels) > 0 {
		c, err := a.Connect()
		if err != nil {
			return nil, err
		}
		if labels, err = l.Labels(cmd.Context(), c); err != nil {
			return nil, err
		}
	}
	return slices.DeleteFunc(items, func(item T) bool { return !filter.Matches(item, labels(item)) }), nil
}

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

// ParseLabelChange parses arguments that change labels, in the form of kubectl label: KEY=VALUE sets a label, and KEY-
// removes it. A wrong argument, and a key that is named twice, is a usage error.
func ParseLabelChange(cmd *cobra.Command, args []string) (c dataset.LabelChange, err error) {
	c.Set = map[string]string{}
	named := map[string]bool{}
	for _, arg := range args {
		key, value, sets := strings.Cut(arg, "=")
		if !sets {
			var removes bool
			if key, removes = strings.CutSuffix(arg, "-"); !removes {
				return c, UsageError(cmd, "bad label %q: expected KEY=VALUE to set a label, or KEY- to remove one",
					dataset.Clip(arg))
			}
		}
		if err := dataset.CheckLabel(key); err != nil {
			return c, UsageError(cmd, "%w", err)
		}
		if named[key] {
			return c, UsageError(cmd, "label %s is named twice", key)
		}
		named[key] = true
		if sets {
			c.Set[key] = value
		} else {
			c.Remove = append(c.Remove, key)
		}
	}
	return c, nil
}

// ParseTime parses the value of a flag that is a moment: how long ago, or a time in the zone of now.
func ParseTime(now time.Time, flag, s string) (time.Time, error) {
	if ago, err := dataset.ParseDuration(s); err == nil {
		return now.Add(-ago), nil
	}
	layouts := []string{time.RFC3339Nano, time.DateTime, "2006-01-02T15:04:05", "2006-01-02 15:04", time.DateOnly}
	for _, layout := range layouts {
		if t, err := time.ParseInLocation(layout, s, now.Location()); err == nil {
			return t, nil
		}
	}
	return time.Time{}, dataset.Errorf(dataset.ErrInvalid,
		"--%s %q: expected how long ago, such as 30m or 2d, or a time, such as 2026-03-01 or 2026-03-01 12:00:00",
		flag, dataset.Clip(s))
}

// FetchAll reads a list page by page.
func FetchAll[T any](ctx context.Context, page func(context.Context, api.Page) (api.List[T], error)) ([]T, error) {
	var pages [][]T
	for after := ""; ; {
		l, err := page(ctx, api.Page{After: after})
		if err != nil {
			return nil, err
		}
		pages = append(pages, l.Items)
		switch l.Next {
		case "":
			return slices.Concat(pages...), nil
		case after: // a list that repeats itself has no end
			return nil, dataset.Errorf(dataset.ErrInternal, "list of the server: the next page does not follow %q",
				after)
		}
		after = l.Next
	}
}

// storeCheckTime bounds how long a list waits for the state of the store.
const storeCheckTime = 2 * time.Second

// startStoreCheck asks the server, while the list is fetched, whether the store was lost or is an older one. The
// returned function waits for the answer. It returns a note that the list can lack items, with the next command, or ""
// if the store is consistent or the server did not answer.
func (l List[T]) startStoreCheck(ctx context.Context, a *App) func() string {
	if l.Local {
		return func() string { return "" }
	}
	note := make(chan string, 1)
	ctx, cancel := context.WithTimeout(ctx, storeCheckTime)
	go func() {
		defer close(note)
		c, err := a.Connect()
		if err != nil {
			return
		}
		// An error is not reported: the list itself fails if the server does not answer.
		if health, err := c.ClusterHealth(ctx); err == nil && health.Store.Halted != "" {
			note <- "this list may lack items: " + health.Store.Halted
		}
	}()
	return func() string {
		defer cancel()
		return <-note
	}
}
