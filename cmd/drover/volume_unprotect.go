package main

import "github.com/spf13/cobra"

func newVolumeUnprotectCmd(a *app) *cobra.Command {
	return protection(a, false, &cobra.Command{
		Use:   "unprotect NAME",
		Short: "Allow to delete a volume again",
	})
}
