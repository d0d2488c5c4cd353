package volumes

import (
	"context"
	"slices"
	"time"

	"github.com/google/uuid"
	"github.com/spf13/cobra"

	"github.com/droverhq/drover/cmd/drover/internal/cli"
	"github.com/droverhq/drover/dataset"
)

func newSnapshotLsCmd(a *cli.App) *cobra.Command {
	var size bool
	cmd := cli.New(a, cli.List[measured]{
		Use:   "ls [VOLUME]",
		Short: "List the snapshots of a volume, or of all volumes, oldest first",
		Long: `List the snapshots of a volume, or of all volumes, oldest first. UNIQUE is
how much space the deletion of a snapshot frees: the bytes that no other
snapshot and not the volume uses. Blocks that only two snapshots share are
counted for neither. Pools of the backends loop and zfs know this, on their own
host. The table of one volume shows it, as far as it is measured within two
seconds. --size measures for up to 30 seconds, for all volumes and formats.`,
		ValidArgs: cli.Complete(a, cli.VolumeWords),
		Fetch: cli.FromServer(a, func(ctx context.Context, c cli.Remote, q cli.ListQuery) ([]measured, error) {
			ref := ""
			if len(q.Args) > 0 {
				ref = q.Args[0]
			}
			snaps, err := cli.FetchAll(ctx, cli.SnapshotsOf(c, ref))
			if err != nil {
				return nil, err
			}
			switch {
			case size:
				return measureAll(ctx, c, snaps, measureWithin), nil
			case ref != "" && q.Table:
				return measureAll(ctx, c, snaps, tableWithin), nil
			}
			return measureAll(ctx, c, snaps, 0), nil
		}),
		ID:      func(s measured) string { return s.ID.String() },
		Columns: func(snaps []measured) []cli.Column[measured] { return snapshotColumns(a, snaps, size) },
		Compare: func(x, y measured) int { return x.Created.Compare(y.Created) },
		Moment: &cli.Moment[measured]{
			Of: func(s measured) time.Time { return s.Created }, Verb: "taken",
		},
		Labels: func(ctx context.Context, c cli.Remote) (func(measured) map[string]string, error) {
			of, err := cli.VolumeLabels(ctx, c)
			return func(s measured) map[string]string { return of(s.Dataset) }, err
		},
	})
	cmd.Flags().BoolVar(&size, "size", false, "show how much space the deletion of each snapshot frees")
	return cmd
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

func snapshotColumns(a *cli.App, snaps []measured, size bool) []cli.Column[measured] {
	hasUnique := size || slices.ContainsFunc(snaps, func(s measured) bool { return s.Unique != nil })
	return []cli.Column[measured]{
		cli.UUID("SNAPSHOT", snaps, func(s measured) uuid.UUID { return s.ID }),
		cli.Volume("VOLUME", func(s measured) string { return s.Volume }),
		{Header: "NAME", Cell: func(s measured) string { return s.Name }},
		{Header: "KIND", Cell: func(s measured) string { return string(s.Kind) }},
		{Header: "SIZE", Cell: func(s measured) string { return cli.SizeOr(s.Size, "") },
			Compare: cli.By(func(s measured) dataset.Size { return s.Size })},
		cli.Time(a, "CREATED", func(s measured) time.Time { return s.Created }),
		{Header: "MESSAGE", Cell: func(s measured) string { return s.Message }},
		{Header: "UNIQUE", Wide: !hasUnique, Cell: func(s measured) string {
			if s.Unique == nil {
				return ""
			}
			return s.Unique.Human()
		}, Compare: cli.By(func(s measured) dataset.Size { return *s.Unique })},
		{Header: "PROFILE", Wide: true, Cell: func(s measured) string { return s.Profile.Name }},
		{Header: "DATASET", Wide: true, Cell: func(s measured) string { return s.Dataset.String() }},
		{Header: "UUID", Wide: true, Cell: func(s measured) string { return s.ID.String() }},
	}
}
