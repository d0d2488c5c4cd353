package main

import "github.com/spf13/cobra"

func newNodeCmd(a *app) *cobra.Command {
	return group(&cobra.Command{
		Use:   "node",
		Short: "Look at the hosts",
	},
		newNodeLsCmd(a), newNodeInspectCmd(a), newNodeCordonCmd(a), newNodeDrainCmd(a),
		newNodeTokenCmd(a), newNodeRmCmd(a),
	)
}
