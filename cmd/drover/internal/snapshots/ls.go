package snapshots

import (
	"context"
	"slices"
	"time"

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
		Long: `List the snapshots of a volume, or of all volumes, oldest first. UNIQUE is
how much space the deletion of a snapshot frees: the bytes that no other
snapshot and not the volume uses. Blocks that only two snapshots share are
counted for neither. Pools of the backends loop and zfs know this, on their own
host. The table of one volume shows it, as far as it is measured within two
seconds. --size measures for up to 30 seconds, for all volumes and formats.`,
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
			if err != nil {
				return nil, err
			}
			switch {
			case size:
				return measureAll(cmd.Context(), c, snaps, measureWithin), nil
			case ref != "" && printsTable(cmd):
				return measureAll(cmd.Context(), c, snaps, tableWithin), nil
			}
			return measureAll(cmd.Context(), c, snaps, 0), nil
		},
		ID:      id,
		Compare: func(x, y measured) int { return x.Created.Compare(y.Created) },
		Moment: &listing.Moment[measured]{
			Of: func(s measured) time.Time { return s.Created }, Verb: "taken",
		},
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

// printsTable reports whether an ls command prints a table.
func printsTable(cmd *cobra.Command) bool {
	format := cmd.Flag("output").Value.String()
	return cmd.Flag("quiet").Value.String() != "true" && (format == "table" || format == "wide")
}

// measureAll measures the snapshots until the time within has passed. The others are returned without a measurement. If
// the pool of a dataset cannot measure one of its snapshots, measureAll does not try the others.
func measureAll(ctx context.Context, c cli.Remote, snaps []dataset.Snapshot, within time.Duration) []measured {
	ctx, cancel := context.WithTimeout(ctx, within)
	defer cancel()
	out := make([]measured, 0, len(snaps))
	unable := map[uuid.UUID]bool{}
	for _, s := range snaps {
		m := measured{Snapshot: s}
		if ctx.Err() == nil && !unable[s.Dataset] {
			switch dataset.KindOf(m.measure(ctx, c)) { // drover snapshot inspect shows why
			case dataset.ErrUnsupported, dataset.ErrNotFound, dataset.ErrOffline:
				unable[s.Dataset] = true
			}
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
		t.Row(short(s.ID), cli.ShortName(s.Volume), s.Name, string(s.Kind), cli.SizeOr(s.Size, ""),
			show.Ago(a.Now(), s.Created), s.Message)
	}
	if size || slices.ContainsFunc(snaps, func(s measured) bool { return s.Unique != nil }) {
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
