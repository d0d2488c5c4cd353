package main

import (
	"fmt"

	"github.com/google/uuid"
	"github.com/spf13/cobra"

	"github.com/droverhq/drover/control/api"
	"github.com/droverhq/drover/dataset"
)

func newSnapshotRmCmd(a *app) *cobra.Command {
	cmd := &cobra.Command{
		Use:               "rm ID",
		Short:             "Delete a snapshot",
		Args:              args(1),
		ValidArgsFunction: complete(a, snapshotWords),
	}
	o := workFlags(cmd, false)
	volume := volumeFlag(a, cmd)
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		req := api.Request{Kind: dataset.OpSnapshotDelete, Volume: *volume, Snapshot: args[0]}
		return a.change(cmd, o, req, func(out api.Outcome) (uuid.UUID, string) {
			s := taken(out)
			return s.ID, fmt.Sprintf("deleted snapshot %s of %s", s.ID, s.Volume)
		})
	}
	return cmd
}
