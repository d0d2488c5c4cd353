package snapshots

import (
	"slices"

	"github.com/google/uuid"
	"github.com/spf13/cobra"

	"github.com/droverhq/drover/cmd/drover/internal/cli"
	"github.com/droverhq/drover/cmd/drover/internal/show"
	"github.com/droverhq/drover/dataset"
)

func newSnapshotLsCmd(a *cli.App) *cobra.Command {
	return cli.Query(a, &cobra.Command{
		Use:               "ls [VOLUME]",
		Short:             "List the snapshots of a volume, or of all volumes, oldest first",
		Args:              cli.Args(0),
		ValidArgsFunction: cli.Complete(a, cli.VolumeWords),
	}, true, func(cmd *cobra.Command, c cli.Remote, o *cli.Output, args []string) error {
		ref := ""
		if len(args) > 0 {
			ref = args[0]
		}
		snaps, err := cli.FetchAll(cmd.Context(), cli.SnapshotsOf(c, ref))
		if err != nil {
			return err
		}
		slices.SortStableFunc(snaps, func(x, y dataset.Snapshot) int { return x.Created.Compare(y.Created) })
		return cli.PrintList(a, o, snaps, func(s dataset.Snapshot) string { return s.ID.String() },
			func(snaps []dataset.Snapshot) *show.Table { return snapshotTable(a, snaps) })
	})
}

func snapshotTable(a *cli.App, snaps []dataset.Snapshot) *show.Table {
	ids := make([]uuid.UUID, len(snaps))
	for i, s := range snaps {
		ids[i] = s.ID
	}
	short := show.Shorten(ids)
	t := show.NewTable("SNAPSHOT", "VOLUME", "NAME", "KIND", "SIZE", "CREATED", "MESSAGE")
	for _, s := range snaps {
		t.Row(short(s.ID), cli.ShortName(s.Volume), s.Name, string(s.Kind), cli.SizeOr(s.Size, s.Profile.Size, ""),
			show.Ago(a.Now(), s.Created), s.Message)
	}
	return t
}
