package main

import (
	"github.com/spf13/cobra"

	"github.com/droverhq/drover/cmd/drover/internal/show"
)

func newOperationCancelCmd(a *app) *cobra.Command {
	cmd := &cobra.Command{
		Use:               "cancel ID",
		Short:             "End an operation and take back what it made",
		Args:              args(1),
		ValidArgsFunction: complete(a, operationWords),
	}
	o := outputFlags(cmd, false)
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		c, err := a.connect()
		if err != nil {
			return err
		}
		op, err := c.CancelOperation(cmd.Context(), args[0])
		if err != nil {
			return err
		}
		if o.json() {
			return show.JSON(a.out, op)
		}
		return a.say("operation %s (%s %s) is %s", op.ID, op.Kind, op.Volume, op.State)
	}
	return cmd
}
