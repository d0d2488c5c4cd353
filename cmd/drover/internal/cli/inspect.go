package cli

import (
	"context"
	"fmt"

	"github.com/spf13/cobra"

	"github.com/droverhq/drover/cmd/drover/internal/show"
)

// Inspected describes the items that an inspect command shows.
type Inspected[T any] struct {
	// Get reads one item.
	Get func(ctx context.Context, c Remote, name string) (T, error)
	// Template is listing.Template. It parses the text of -o template=TEXT, and returns a function that prints an item.
	Template func(cmd *cobra.Command, text string) (func(T) (string, error), error)
	// Form returns the item for people.
	Form func(ctx context.Context, c Remote, item T) *show.Form
}

// Inspect makes a command that shows one or several items. As JSON or YAML, one item is an object, and several are a
// list. With a template, each item is a line. The command reads all items before it prints the first, so that a wrong
// name prints nothing.
func Inspect[T any](a *App, use, short string, words candidates, of Inspected[T]) *cobra.Command {
	cmd := &cobra.Command{
		Use:               use,
		Aliases:           []string{"show"},
		Short:             short,
		Args:              Args(1),
		ValidArgsFunction: CompleteEach(a, words),
	}
	o := outputFlags(cmd, false, format{name: formatTable, inspects: true})
	cmd.RunE = a.Connected(func(cmd *cobra.Command, c Remote, names []string) error {
		ctx := cmd.Context()
		var line func(T) (string, error)
		if o.format.name == formatTemplate {
			var err error
			if line, err = of.Template(cmd, o.format.template); err != nil {
				return err
			}
		}
		items := make([]T, 0, len(names))
		for _, name := range names {
			item, err := of.Get(ctx, c, name)
			if err != nil {
				return err
			}
			items = append(items, item)
		}
		if line != nil {
			return printLines(a, items, line)
		}
		if o.format.name != formatTable && len(items) > 1 {
			return PrintObject(a, o, items, nil)
		}
		for i, item := range items {
			if i > 0 {
				if _, err := fmt.Fprintln(a.Out); err != nil {
					return err
				}
			}
			err := PrintObject(a, o, item, func(item T) *show.Form { return of.Form(ctx, c, item) })
			if err != nil {
				return err
			}
		}
		return nil
	})
	return cmd
}

// printLines prints the line of each item.
func printLines[T any](a *App, items []T, line func(T) (string, error)) error {
	for _, item := range items {
		text, err := line(item)
		if err != nil {
			return err
		}
		if _, err := fmt.Fprintln(a.Out, text); err != nil {
			return err
		}
	}
	return nil
}
