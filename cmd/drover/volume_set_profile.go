package main

import (
	"fmt"

	"github.com/google/uuid"
	"github.com/spf13/cobra"

	"github.com/droverhq/drover/control/api"
	"github.com/droverhq/drover/dataset"
)

func newVolumeSetProfileCmd(a *app) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "set-profile NAME PROFILE",
		Short: "Give a volume another profile, or the newest revision of its own",
		Long: `Give a volume another profile, or the newest revision of its own: a profile is
frozen into a volume when that is created, and editing the file changes none.`,
		Args:              args(2),
		ValidArgsFunction: complete(a, volumeWords, profileWords),
	}
	o := workFlags(cmd, false)
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		req := api.Request{Kind: dataset.OpUpdate, Volume: args[0], Profile: args[1]}
		return a.change(cmd, o, req, func(out api.Outcome) (uuid.UUID, string) {
			d := made(out)
			return d.ID, fmt.Sprintf("volume %s has profile %s@%s%s", d.Volume, d.Profile.Name, d.Profile.Revision, already(out))
		})
	}
	return cmd
}
