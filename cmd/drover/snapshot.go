package main

import "github.com/spf13/cobra"

func newSnapshotCmd(a *app) *cobra.Command {
	return group(&cobra.Command{
		Use:   "snapshot",
		Short: "Take, look at, compare and restore snapshots",
	},
		newSnapshotCreateCmd(a), newSnapshotLsCmd(a), newSnapshotInspectCmd(a), newSnapshotRmCmd(a),
		newSnapshotRestoreCmd(a), newSnapshotDiffCmd(a),
	)
}
