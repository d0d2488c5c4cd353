package stores

import (
	"github.com/spf13/cobra"

	"github.com/droverhq/drover/cmd/drover/internal/cli"
)

// Command makes drover store with its subcommands.
func Command(a *cli.App) *cobra.Command {
	return cli.Group(&cobra.Command{
		Use:   "store",
		Short: "Back up the control service's records, move them, or make them again from the hosts",
	},
		newStoreBackupCmd(a), newStoreExportCmd(a), newStoreImportCmd(a), newStoreRebuildCmd(a), newStoreRecoverCmd(a),
	)
}
