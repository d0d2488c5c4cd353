package operations

import (
	"github.com/spf13/cobra"

	"github.com/droverhq/drover/cmd/drover/internal/cli"
	"github.com/droverhq/drover/cmd/drover/internal/show"
)

func newOperationCancelCmd(a *cli.App) *cobra.Command {
	cmd := &cobra.Command{
		Use:               "cancel ID",
		Short:             "Cancel an operation and undo its work",
		Args:              cli.Args(1),
		ValidArgsFunction: cli.Complete(a, cli.OperationWords),
	}
	o := cli.OutputFlags(cmd, false)
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		c, err := a.Connect()
		if err != nil {
			return err
		}
		op, err := c.CancelOperation(cmd.Context(), args[0])
		if err != nil {
			return err
		}
		if o.JSON() {
			return show.JSON(a.Out, op)
		}
		return a.Say("operation %s (%s %s) is %s", op.ID, op.Kind, op.Volume, op.State)
	}
	return cmd
}
