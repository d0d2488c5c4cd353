package nodes

import (
	"github.com/spf13/cobra"

	"github.com/droverhq/drover/cmd/drover/internal/cli"
)

// StoreCommand makes drover store with its subcommands.
func StoreCommand(a *cli.App) *cobra.Command {
	return cli.Group(&cobra.Command{
		Use:   "store",
		Short: "Manage the store of the control service",
	},
		newStoreBackupCmd(a), newStoreExportCmd(a), newStoreImportCmd(a), newStoreRecoverCmd(a),
	)
}
