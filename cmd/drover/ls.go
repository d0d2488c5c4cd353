package main

import (
	"context"

	"github.com/spf13/cobra"

	"github.com/droverhq/drover/cmd/drover/internal/show"
)

// A listing is what the ls of a noun shows: all that there is, in the order in which it is
// fetched.
type listing[T any] struct {
	short string
	long  string // empty: short is all there is to say
	fetch func(context.Context, remote) ([]T, error)
	id    func(T) string
	table func([]T) *show.Table
}

func newLsCmd[T any](a *app, l listing[T]) *cobra.Command {
	cmd := &cobra.Command{
		Use:               "ls",
		Short:             l.short,
		Long:              l.long,
		Args:              args(0),
		ValidArgsFunction: cobra.NoFileCompletions,
	}
	o := outputFlags(cmd, true)
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		c, err := a.connect()
		if err != nil {
			return err
		}
		items, err := l.fetch(cmd.Context(), c)
		if err != nil {
			return err
		}
		return list(a, o, items, l.id, l.table)
	}
	return cmd
}
