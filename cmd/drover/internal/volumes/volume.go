package volumes

import (
	"github.com/spf13/cobra"

	"github.com/droverhq/drover/cmd/drover/internal/cli"
)

// Command makes drover volume with its subcommands.
func Command(a *cli.App) *cobra.Command {
	return cli.Group(&cobra.Command{
		Use:        "volume",
		Aliases:    []string{"vol"},
		SuggestFor: []string{"ls", "create", "rm", "inspect", "resize"},
		Short:      "Manage volumes",
	},
		newVolumeCreateCmd(a), newVolumeLsCmd(a), newVolumeInspectCmd(a), newVolumeRmCmd(a),
		newVolumeResizeCmd(a), newVolumeImportCmd(a), newVolumeExportCmd(a), newVolumeSetProfileCmd(a),
		newVolumeProtectCmd(a), cli.ClusterOnly(newVolumeMoveCmd(a)),
		newVolumeRekeyCmd(a), newVolumeLabelCmd(a), newVolumeRenameCmd(a),
		newVolumeStatsCmd(a),
	)
}
