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
	return protectCmd(a, true, &cobra.Command{
		Use:   "protect NAME",
		Short: "Protect a volume from deletion",
	})
}

// protectCmd makes cmd turn a volume's protection on or off.
func protectCmd(a *cli.App, protect bool, cmd *cobra.Command) *cobra.Command {
	cmd.Args = cli.Args(1)
	cmd.ValidArgsFunction = cli.Complete(a, cli.VolumeWords)
	o := cli.OutputFlags(cmd, false)
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		req := api.Request{Kind: dataset.OpUpdate, Volume: args[0], Protect: &protect}
		return a.Change(cmd, o, req, func(out api.Outcome) (uuid.UUID, string) {
			d := cli.MadeDataset(out)
			return d.ID, fmt.Sprintf("volume %s is %s%s", d.Volume,
				map[bool]string{true: "protected", false: "not protected"}[protect], unchangedNote(out))
		})
	}
	return cmd
}

func newVolumeUnprotectCmd(a *cli.App) *cobra.Command {
	return protectCmd(a, false, &cobra.Command{
		Use:   "unprotect NAME",
		Short: "Allow the deletion of a volume again",
	})
}
