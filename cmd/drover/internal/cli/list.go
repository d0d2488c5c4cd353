package cli

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/spf13/cobra"
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
