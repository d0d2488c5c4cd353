package main

import (
	"slices"

	"github.com/google/uuid"
	"github.com/spf13/cobra"

	"github.com/droverhq/drover/cmd/drover/internal/show"
	"github.com/droverhq/drover/dataset"
)

func newSnapshotLsCmd(a *app) *cobra.Command {
	cmd := &cobra.Command{
		Use:               "ls [VOLUME]",
		Short:             "List the snapshots of a volume, or all, oldest first",
		Args:              args(0),
		ValidArgsFunction: complete(a, volumeWords),
	}
	o := outputFlags(cmd, true)
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		c, err := a.connect()
		if err != nil {
			return err
		}
		ref := ""
		if len(args) > 0 {
			ref = args[0]
		}
		snaps, err := all(cmd.Context(), snapshotsOf(c, ref))
		if err != nil {
			return err
		}
		slices.SortStableFunc(snaps, func(x, y dataset.Snapshot) int { return x.Created.Compare(y.Created) })
		return list(a, o, snaps, func(s dataset.Snapshot) string { return s.ID.String() },
			func(snaps []dataset.Snapshot) *show.Table { return snapshotTable(a, snaps) })
	}
	return cmd
}

func snapshotTable(a *app, snaps []dataset.Snapshot) *show.Table {
	ids := make([]uuid.UUID, len(snaps))
	for i, s := range snaps {
		ids[i] = s.ID
	}
	short := show.Shorten(ids)
	t := show.NewTable("SNAPSHOT", "VOLUME", "NAME", "KIND", "SIZE", "CREATED", "MESSAGE")
	for _, s := range snaps {
		t.Row(short(s.ID), shortName(s.Volume), s.Name, string(s.Kind), sizeOr(s.Size, s.Profile.Size, ""),
			show.Ago(a.now(), s.Created), s.Message)
	}
	return t
}
