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
		Short: "Defragment a volume by writing it again",
		Long: `Write a volume again in few extents, so that taking a snapshot blocks its
writers no longer than for a new volume. The volume must not be in use. A mount
that arrives meanwhile cancels the operation without changes. The pool needs
space for a second copy. Blocks that snapshots shared with the volume then
belong only to them, and the next refresh of a replica transfers the whole
volume.`,
		Example:           `  drover volume rewrite db`,
		Args:              cli.Args(1),
		ValidArgsFunction: cli.Complete(a, cli.VolumeWords),
	}
	o := cli.WorkFlags(cmd, false)
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		req := api.Request{Kind: dataset.OpRewrite, Volume: args[0]}
		return a.Change(cmd, o, req, func(out api.Outcome) (uuid.UUID, string) {
			d := cli.MadeDataset(out)
			return d.ID, fmt.Sprintf("volume %s was rewritten", d.Volume)
		})
	}
	return cmd
}
