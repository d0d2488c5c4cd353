package volumes

import (
	"fmt"

	"github.com/google/uuid"
	"github.com/spf13/cobra"

	"github.com/droverhq/drover/cmd/drover/internal/cli"
	"github.com/droverhq/drover/control/api"
	"github.com/droverhq/drover/dataset"
)

func newSnapshotRestoreCmd(a *cli.App) *cobra.Command {
	cmd := &cobra.Command{
		Use:        "restore VOLUME SNAPSHOT",
		SuggestFor: []string{"rollback", "revert"},
		Short:      "Restore a volume to one of its snapshots",
		Long: `Restore a volume to one of its snapshots. The volume must not be in use. Its
current data is saved as a snapshot first, and newer snapshots stay, so the
restore can be undone. VOLUME@SNAPSHOT is accepted as well.`,
		Example: `  drover snapshot restore db before-upgrade`,
		Args: func(cmd *cobra.Command, args []string) error {
			return cli.Args(2)(cmd, splitName(args))
		},
		ValidArgsFunction: cli.Complete(a, cli.VolumeWords, cli.SnapshotWords),
	}
	o := cli.WorkFlags(cmd, false)
	cli.DryRunFlag(cmd, o)
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		args = splitName(args)
		req := api.Request{Kind: dataset.OpRestore, Volume: args[0], Snapshot: args[1]}
		return a.Change(cmd, o, req, func(out api.Outcome) (uuid.UUID, string) {
			d := cli.MadeDataset(out)
			if o.DryRun {
				return d.ID, fmt.Sprintf("would restore volume %s to snapshot %s, and keep its present data as a "+
					"snapshot", d.Volume, args[1])
			}
			line := "restored volume " + d.Volume
			if out.Operation != nil && out.Operation.Source != nil {
				line += " to snapshot " + side(out.Operation.Source.Snapshot.String(), args[1])
			}
			if snapshot := takenSnapshot(out); snapshot.ID != uuid.Nil {
				line += fmt.Sprintf("; its previous data is snapshot %s", snapshot.ID)
			}
			return d.ID, line
		})
	}
	return cmd
}
