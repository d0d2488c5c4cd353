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
	id := func(s measured) string { return s.ID.String() }
	var size bool
	cmd := listing.New(a, listing.List[measured]{
		Use:   "ls [VOLUME]",
		Short: "List the snapshots of a volume, or of all volumes, oldest first",
		Long: `List the snapshots of a volume, or of all volumes, oldest first. --size adds how
much space the deletion of each snapshot frees: the bytes that no other snapshot
and not the volume uses. Pools of the backends loop and zfs know this, on their
own host. Blocks that only two snapshots share are counted for neither.`,
		ValidArgs: cli.Complete(a, cli.VolumeWords),
		FetchMatching: func(cmd *cobra.Command, q listing.Query) ([]measured, error) {
			c, err := a.Connect()
			if err != nil {
				return nil, err
			}
			ref := ""
			if len(q.Args) > 0 {
				ref = q.Args[0]
			}
			snaps, err := cli.FetchAll(cmd.Context(), cli.SnapshotsOf(c, ref))
			return measureAll(cmd.Context(), c, snaps, size), err
		},
		ID:      id,
		Compare: func(x, y measured) int { return x.Created.Compare(y.Created) },
		Labels: func(ctx context.Context, c cli.Remote) (func(measured) map[string]string, error) {
			of, err := cli.VolumeLabels(ctx, c)
			return func(s measured) map[string]string { return of(s.Dataset) }, err
		},
		Table: func(snaps []measured) *show.Table { return snapshotTable(a, snaps, size) },
		Wide: []listing.Column[measured]{
			{Header: "PROFILE", Cell: func(s measured) string { return s.Profile.Name }},
			{Header: "DATASET", Cell: func(s measured) string { return s.Dataset.String() }},
			{Header: "UUID", Cell: id},
		},
		SortBy: map[string]string{"snapshot": "id", "size": "size", "created": "created", "unique": "unique"},
	})
	cmd.Flags().BoolVar(&size, "size", false, "show how much space the deletion of each snapshot frees")
	return cmd
}

// measureAll measures the snapshots if size is set. It stops after measureWithin.
func measureAll(ctx context.Context, c cli.Remote, snaps []dataset.Snapshot, size bool) []measured {
	ctx, cancel := context.WithTimeout(ctx, measureWithin)
	defer cancel()
	out := make([]measured, 0, len(snaps))
	for _, s := range snaps {
		m := measured{Snapshot: s}
		if size && ctx.Err() == nil {
			_ = m.measure(ctx, c) // drover snapshot inspect shows why
		}
		out = append(out, m)
	}
	return out
}

func snapshotTable(a *cli.App, snaps []measured, size bool) *show.Table {
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
	if size {
		t.Column("UNIQUE", uniqueCells(snaps))
	}
	return t
}

func uniqueCells(snaps []measured) []string {
	cells := make([]string, len(snaps))
	for i, s := range snaps {
		if s.Unique != nil {
			cells[i] = s.Unique.Human()
		}
	}
	return cells
}
