package main

import "github.com/spf13/cobra"

func newTrashCmd(a *app) *cobra.Command {
	return group(&cobra.Command{
		Use:   "trash",
		Short: "Bring back deleted volumes, or destroy them for good",
	},
		newTrashLsCmd(a), newTrashRestoreCmd(a), newTrashPurgeCmd(a),
	)
}
