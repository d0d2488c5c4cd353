package main

import "github.com/spf13/cobra"

func newStoreCmd(a *app) *cobra.Command {
	return group(&cobra.Command{
		Use:   "store",
		Short: "Back up the control service's records, move them, or make them again from the hosts",
	},
		newStoreBackupCmd(a), newStoreExportCmd(a), newStoreImportCmd(a), newStoreRebuildCmd(a), newStoreRecoverCmd(a),
	)
}
