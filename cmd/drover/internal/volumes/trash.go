package volumes

import (
	"github.com/spf13/cobra"

	"github.com/droverhq/drover/cmd/drover/internal/cli"
)

// TrashCommand makes drover trash with its subcommands.
func TrashCommand(a *cli.App) *cobra.Command {
	return cli.Group(&cobra.Command{
		Use:   "trash",
		Short: "Manage deleted volumes",
	},
		newTrashLsCmd(a), newTrashRestoreCmd(a), newTrashPurgeCmd(a),
	)
}
