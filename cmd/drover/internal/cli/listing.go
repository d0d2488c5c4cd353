package cli

import (
	"context"

	"github.com/spf13/cobra"

	"github.com/droverhq/drover/cmd/drover/internal/show"
)

// A Listing describes the ls command of a noun. It shows all items in the order in which they are
// fetched.
type Listing[T any] struct {
	Short string
	Long  string // if empty, the help is only the short text
	Fetch func(context.Context, Remote) ([]T, error)
	ID    func(T) string
	Table func([]T) *show.Table
}

// NewListCommand makes the ls command of a noun.
func NewListCommand[T any](a *App, l Listing[T]) *cobra.Command {
	return Query(a, &cobra.Command{
		Use:               "ls",
		Short:             l.Short,
		Long:              l.Long,
		Args:              Args(0),
		ValidArgsFunction: cobra.NoFileCompletions,
	}, true, func(cmd *cobra.Command, c Remote, o *Output, _ []string) error {
		items, err := l.Fetch(cmd.Context(), c)
		if err != nil {
			return err
		}
		return PrintList(a, o, items, l.ID, l.Table)
	})
}
