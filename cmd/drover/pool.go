package main

import "github.com/spf13/cobra"

func newPoolCmd(a *app) *cobra.Command {
	return group(&cobra.Command{
		Use:   "pool",
		Short: "Look at the places where datasets are kept, make and remove them",
	},
		newPoolCreateCmd(a), newPoolLsCmd(a), newPoolInspectCmd(a), newPoolAdoptCmd(a), newPoolAcceptCmd(a),
		newPoolRmCmd(a),
	)
}
