package main

import (
	"fmt"
	"time"

	"github.com/docker/go-units"
	"github.com/google/uuid"
	"github.com/spf13/cobra"

	"github.com/droverhq/drover/cmd/drover/internal/show"
	"github.com/droverhq/drover/control/api"
	"github.com/droverhq/drover/dataset"
)

func newVolumeRmCmd(a *app) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "rm NAME",
		Short: "Delete a volume",
		Long: `Delete a volume. Its name is free at once; what becomes of its data its profile
says: by default it stays in the trash for a time (drover trash). A volume in
use is not deleted.`,
		Args:              args(1),
		ValidArgsFunction: complete(a, volumeWords),
	}
	o := workFlags(cmd, false)
	var force bool
	cmd.Flags().BoolVar(&force, "force", false, "delete it even if it is protected")
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		req := api.Request{Kind: dataset.OpDelete, Volume: args[0], Force: force}
		return a.change(cmd, o, req, describeDeleted)
	}
	return cmd
}

func describeDeleted(out api.Outcome) (uuid.UUID, string) {
	d := made(out)
	line := "deleted volume " + d.Volume
	switch d.Profile.OnDelete.Mode {
	case dataset.DeletePurge:
		line += " and its data"
	case dataset.DeleteTrash, dataset.DeleteKeep:
		line += fmt.Sprintf("; its data stays %s (drover trash restore %s)", onDelete(d.Profile.OnDelete), d.ID.String()[:show.ShortLength])
	}
	return d.ID, line
}

// onDelete says what becomes of the data when the name is deleted.
func onDelete(o dataset.OnDelete) string {
	switch o.Mode {
	case dataset.DeletePurge:
		return "destroyed at once"
	case dataset.DeleteKeep:
		return "in the trash until it is purged"
	case dataset.DeleteTrash:
		return "in the trash for " + units.HumanDuration(time.Duration(o.Trash))
	}
	return string(o.Mode)
}

func until(now, t time.Time) string {
	if t.IsZero() {
		return "until someone purges it"
	}
	return "until " + show.When(now, t)
}
