package volumes

import (
	"fmt"

	"github.com/google/uuid"
	"github.com/spf13/cobra"

	"github.com/droverhq/drover/cmd/drover/internal/cli"
	"github.com/droverhq/drover/control/api"
	"github.com/droverhq/drover/dataset"
)

func newVolumeRewriteCmd(a *cli.App) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "rewrite NAME",
		Short: "Write a volume anew, so that it lies in few pieces",
		Long: `Write a volume anew, so that it lies in few pieces and snapshots of it hold up
its writers no longer than of a new one. Nobody may use it, and a mount that
comes meanwhile ends it, with nothing changed. Its pool needs room for a second
copy; of what its snapshots share with it they keep their own after, and the
next refresh of a replica brings all of it.`,
		Example:           `  drover volume rewrite db`,
		Args:              cli.Args(1),
		ValidArgsFunction: cli.Complete(a, cli.VolumeWords),
	}
	o := cli.WorkFlags(cmd, false)
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		req := api.Request{Kind: dataset.OpRewrite, Volume: args[0]}
		return a.Change(cmd, o, req, func(out api.Outcome) (uuid.UUID, string) {
			d := cli.MadeDataset(out)
			return d.ID, fmt.Sprintf("volume %s is written anew", d.Volume)
		})
	}
	return cmd
}
