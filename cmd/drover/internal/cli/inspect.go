package cli

import (
	"context"
	"fmt"

	"github.com/spf13/cobra"
)

// Inspected describes the items that an inspect command shows.
type Inspected[T any] struct {
	// Get reads one item.
	Get func(ctx context.Context, c Remote, name string) (T, error)
	// Form returns the item for people.
	Form func(ctx context.Context, c Remote, item T) *Form
}

// Inspect makes a command that shows one or several items. As JSON or YAML, one item is an object, and several are a
// list. With --format, each item is a line. The command reads all items before it prints the first, so that a wrong
// name prints nothing.
func Inspect[T any](a *App, use, short string, words candidates, of Inspected[T]) *cobra.Command {
	cmd := &cobra.Command{
		Use:               use,
		Aliases:           []string{"show"},
		Short:             short,
		Args:              Args(1),
		ValidArgsFunction: CompleteEach(a, words),
	}
	o := outputFlags(cmd, false, format{name: formatTable, reports: true})
	text := cmd.Flags().String("format", "", "print each item with a Go `TEMPLATE` of the fields of -o json")
	cmd.RunE = a.Connected(func(cmd *cobra.Command, c Remote, names []string) error {
		ctx := cmd.Context()
		line, err := ParseTemplate(cmd, *text)
		if err != nil {
			return err
		}
		items := make([]T, 0, len(names))
		for _, name := range names {
			item, err := of.Get(ctx, c, name)
			if err != nil {
				return err
			}
			items = append(items, item)
		}
		if *text == "" && o.format.name != formatTable && len(items) > 1 {
			return PrintObject(a, o, items, nil)
		}
		for i, item := range items {
			if *text != "" {
				err = a.printObject(cmd, line, item)
			} else {
				if i > 0 {
					_, _ = fmt.Fprintln(a.Out)
				}
				err = PrintObject(a, o, item, func(item T) *Form { return of.Form(ctx, c, item) })
			}
			if err != nil {
				return err
			}
		}
		return nil
	})
	return cmd
}
