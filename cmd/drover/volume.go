package main

import "github.com/spf13/cobra"

func newVolumeCmd(a *app) *cobra.Command {
	return group(&cobra.Command{
		Use:   "volume",
		Short: "Create, look at and change volumes",
	},
		newVolumeCreateCmd(a), newVolumeLsCmd(a), newVolumeInspectCmd(a), newVolumeRmCmd(a),
		newVolumeResizeCmd(a), newVolumeImportCmd(a), newVolumeExportCmd(a), newVolumeSetProfileCmd(a),
		newVolumeProtectCmd(a), newVolumeUnprotectCmd(a), newVolumeMoveCmd(a), newVolumeSupersededCmd(a),
		newVolumeRekeyCmd(a),
		newVolumeRewriteCmd(a),
	)
}
