package volumes

import (
	"fmt"

	"github.com/google/uuid"
	"github.com/spf13/cobra"

	"github.com/droverhq/drover/cmd/drover/internal/cli"
	"github.com/droverhq/drover/control/api"
	"github.com/droverhq/drover/dataset"
)

func newVolumeProtectCmd(a *cli.App) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "protect NAME",
		Short: "Protect a volume from deletion, or end that",
		Example: `  drover volume protect db
  drover volume protect db --off`,
		Args: cli.Args(1), ValidArgsFunction: cli.Complete(a, cli.VolumeWords),
	}
	o := cli.OutputFlags(cmd, false)
	off := cmd.Flags().Bool("off", false, "allow the deletion again")
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		protect := !*off
		req := api.Request{Kind: dataset.OpUpdate, Volume: args[0], Protect: &protect}
		return a.Change(cmd, o, req, func(out api.Outcome) (uuid.UUID, string) {
			d := cli.MadeDataset(out)
			return d.ID, fmt.Sprintf("volume %s is %s%s", d.Volume,
				map[bool]string{true: "protected", false: "not protected"}[protect], unchangedNote(out))
		})
	}
	return cmd
}
