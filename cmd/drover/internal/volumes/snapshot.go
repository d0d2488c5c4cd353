package volumes

import (
	"github.com/spf13/cobra"

	"github.com/droverhq/drover/cmd/drover/internal/cli"
)

// SnapshotCommand makes drover snapshot with its subcommands.
func SnapshotCommand(a *cli.App) *cobra.Command {
	return cli.Group(&cobra.Command{
		Use:     "snapshot",
		Aliases: []string{"snap"},
		Short:   "Manage snapshots",
	},
		newSnapshotCreateCmd(a), newSnapshotLsCmd(a), newSnapshotInspectCmd(a), newSnapshotRmCmd(a),
		newSnapshotRestoreCmd(a), newSnapshotDiffCmd(a),
	)
}
