package main

import "github.com/spf13/cobra"

func newProfileCmd(a *app) *cobra.Command {
	return group(&cobra.Command{
		Use:   "profile",
		Short: "Look at profiles, and check a file of them",
	},
		newProfileLsCmd(a), newProfileShowCmd(a), newProfileCheckCmd(a),
	)
}
