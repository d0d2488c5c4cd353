package main

import "github.com/spf13/cobra"

func newBackendCmd(a *app) *cobra.Command {
	return group(&cobra.Command{
		Use:   "backend",
		Short: "Try what keeps the datasets",
	},
		newBackendVerifyCmd(a),
	)
}
