package main

import "github.com/spf13/cobra"

func newOperationCmd(a *app) *cobra.Command {
	return group(&cobra.Command{
		Use:   "operation",
		Short: "Look at long work, watch it, cancel it",
	},
		newOperationLsCmd(a), newOperationWatchCmd(a), newOperationCancelCmd(a),
	)
}
