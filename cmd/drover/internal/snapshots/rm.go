package snapshots

import (
	"cmp"
	"context"
	"fmt"

	"github.com/google/uuid"
	"github.com/spf13/cobra"

	"github.com/droverhq/drover/cmd/drover/internal/cli"
	"github.com/droverhq/drover/control/api"
	"github.com/droverhq/drover/dataset"
)

func newSnapshotRmCmd(a *cli.App) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "rm [VOLUME] SNAPSHOT",
		Short: "Delete a snapshot",
		Long: `Delete a snapshot. SNAPSHOT is a unique prefix of its UUID or, after the
volume, its name.`,
		Example:           `  drover snapshot rm db before-upgrade`,
		Args:              cli.Args(1),
		ValidArgsFunction: cli.Complete(a, cli.CloneSourceWords, cli.SnapshotWords),
	}
	o := cli.WorkFlags(cmd, false)
	cli.DryRunFlag(cmd, o)
	volume := volumeFlag(a, cmd)
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		volume, id, err := snapshotArgs(cmd, *volume, args)
		if err != nil {
			return err
		}
		req := api.Request{Kind: dataset.OpSnapshotDelete, Volume: volume, Snapshot: id}
		return a.Change(cmd, o, req, func(out api.Outcome) (uuid.UUID, string) {
			s := takenSnapshot(out)
			s.Volume = cmp.Or(volume, s.Volume) // a record has the name that the volume had at the snapshot
			if o.DryRun {
				return s.ID, fmt.Sprintf("would delete snapshot %s of %s for good%s", side(s.ID.String(), s.Name),
					s.Volume, freedSpace(cmd.Context(), a, s.ID))
			}
			return s.ID, fmt.Sprintf("deleted snapshot %s of %s", side(s.ID.String(), s.Name), s.Volume)
		})
	}
	return cmd
}

// freedSpace returns a clause about the space that the deletion of a snapshot frees. Only the host with the pool can
// know it.
func freedSpace(ctx context.Context, a *cli.App, id uuid.UUID) string {
	const unknown = "; how much space that frees is not known here"
	c, err := a.Connect()
	if err != nil {
		return unknown
	}
	space, err := c.SnapshotSpace(ctx, id.String())
	if err != nil {
		return unknown
	}
	return ", which frees " + space.Unique.Human()
}
