package status

import (
	"github.com/spf13/cobra"

	"github.com/droverhq/drover/cmd/drover/internal/cli"
)

func newOperationCancelCmd(a *cli.App) *cobra.Command {
	return cli.Query(a, &cobra.Command{
		Use:               "cancel ID",
		SuggestFor:        []string{"kill", "stop"},
		Short:             "Cancel an operation and undo its work",
		Args:              cli.Args(1),
		ValidArgsFunction: cli.Complete(a, cli.OperationWords),
	}, false, func(cmd *cobra.Command, c cli.Remote, o *cli.Output, args []string) error {
		op, err := c.CancelOperation(cmd.Context(), args[0])
		if err != nil {
			return err
		}
		if o.JSON() {
			return cli.JSON(a.Out, op)
		}
		return a.PrintLine("operation %s (%s %s) is %s", op.ID, op.Action(), op.Volume, op.State)
	})
}
