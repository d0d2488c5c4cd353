package operations

import (
	"github.com/spf13/cobra"

	"github.com/droverhq/drover/cmd/drover/internal/cli"
	"github.com/droverhq/drover/cmd/drover/internal/show"
	"github.com/droverhq/drover/dataset"
)

func newOperationInspectCmd(a *cli.App) *cobra.Command {
	return cli.Query(a, &cobra.Command{
		Use:               "inspect ID",
		Short:             "Show an operation in detail",
		Args:              cli.Args(1),
		ValidArgsFunction: cli.Complete(a, cli.AnyOperationWords),
	}, false, func(cmd *cobra.Command, c cli.Remote, o *cli.Output, args []string) error {
		op, err := c.Operation(cmd.Context(), args[0], 0)
		if err != nil {
			return err
		}
		return cli.PrintObject(a, o, op, func(op dataset.Operation) *show.Form {
			f := operationForm(a, op)
			f.Add("Detail", detail(op))
			return f
		})
	})
}
