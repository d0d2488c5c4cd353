package volumes

import (
	"fmt"

	"github.com/google/uuid"
	"github.com/spf13/cobra"

	"github.com/droverhq/drover/cmd/drover/internal/cli"
	"github.com/droverhq/drover/control/api"
	"github.com/droverhq/drover/dataset"
)

func newTrashRestoreCmd(a *cli.App) *cobra.Command {
	cmd := &cobra.Command{
		Use:        "restore DATASET [NAME]",
		SuggestFor: []string{"undelete"},
		Short:      "Restore a deleted volume, under its old name or another",
		Long: `Restore a deleted volume, under its old name or another. DATASET is a prefix of
its UUID, as drover trash ls shows it, or the old name, if only one dataset in
the trash had it.`,
		Example: `  drover trash restore db
  drover trash restore f23ca986 db-old`,
		Args:              cli.Args(1),
		ValidArgsFunction: cli.Complete(a, cli.TrashWords, cli.NoWords),
	}
	o := cli.OutputFlags(cmd, false)
	cli.DryRunFlag(cmd, o)
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		req := api.Request{Kind: dataset.OpUndelete, Volume: args[0]}
		if len(args) > 1 {
			req.Name = args[1]
		}
		return a.Change(cmd, o, req, func(out api.Outcome) (uuid.UUID, string) {
			d := cli.MadeDataset(out)
			if o.DryRun {
				return d.ID, fmt.Sprintf("would restore dataset %s as a volume", d.ID)
			}
			return d.ID, fmt.Sprintf("restored volume %s: dataset %s", d.Volume, d.ID)
		})
	}
	return cmd
}
