package snapshots

import (
	"context"

	"github.com/google/uuid"
	"github.com/spf13/cobra"

	"github.com/droverhq/drover/cmd/drover/internal/cli"
	"github.com/droverhq/drover/cmd/drover/internal/listing"
	"github.com/droverhq/drover/cmd/drover/internal/show"
	"github.com/droverhq/drover/dataset"
)

func newSnapshotLsCmd(a *cli.App) *cobra.Command {
	id := func(s dataset.Snapshot) string { return s.ID.String() }
	return listing.New(a, listing.List[dataset.Snapshot]{
		Use:       "ls [VOLUME]",
		Short:     "List the snapshots of a volume, or of all volumes, oldest first",
		ValidArgs: cli.Complete(a, cli.VolumeWords),
		FetchMatching: func(cmd *cobra.Command, q listing.Query) ([]dataset.Snapshot, error) {
			c, err := a.Connect()
			if err != nil {
				return nil, err
			}
			ref := ""
			if len(q.Args) > 0 {
				ref = q.Args[0]
			}
			return cli.FetchAll(cmd.Context(), cli.SnapshotsOf(c, ref))
		},
		ID:      id,
		Compare: func(x, y dataset.Snapshot) int { return x.Created.Compare(y.Created) },
		Labels: func(ctx context.Context, c cli.Remote) (func(dataset.Snapshot) map[string]string, error) {
			of, err := cli.VolumeLabels(ctx, c)
			return func(s dataset.Snapshot) map[string]string { return of(s.Dataset) }, err
		},
		Table: func(snaps []dataset.Snapshot) *show.Table { return snapshotTable(a, snaps) },
		Wide: []listing.Column[dataset.Snapshot]{
			{Header: "PROFILE", Cell: func(s dataset.Snapshot) string { return s.Profile.Name }},
			{Header: "DATASET", Cell: func(s dataset.Snapshot) string { return s.Dataset.String() }},
			{Header: "UUID", Cell: id},
		},
		SortBy: map[string]string{"snapshot": "id", "size": "size", "created": "created"},
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
