package main

import (
	"context"
	"slices"
	"strconv"

	"github.com/spf13/cobra"

	"github.com/droverhq/drover/cmd/drover/internal/show"
	"github.com/droverhq/drover/control/api"
)

func newTrashLsCmd(a *app) *cobra.Command {
	return newLsCmd(a, listing[api.Volume]{
		short: "List the datasets in the trash, latest deleted first",
		fetch: func(ctx context.Context, c remote) ([]api.Volume, error) {
			gone, err := all(ctx, c.Trash)
			slices.SortStableFunc(gone, func(x, y api.Volume) int {
				if x.Trash == nil || y.Trash == nil {
					return 0
				}
				return y.Trash.At.Compare(x.Trash.At)
			})
			return gone, err
		},
		id:    volumeID,
		table: func(volumes []api.Volume) *show.Table { return trashTable(a, volumes) },
	})
}

func trashTable(a *app, gone []api.Volume) *show.Table {
	short := shortDatasets(gone)
	t := show.NewTable("DATASET", "WAS", "PROFILE", "SIZE", "USED", "POOL", "SNAPSHOTS", "DELETED", "PURGED")
	for _, v := range gone {
		deleted, purged := "", ""
		if v.Trash != nil {
			deleted, purged = show.Ago(a.now(), v.Trash.At), "never"
			if !v.Trash.Until.IsZero() {
				purged = show.Ago(a.now(), v.Trash.Until)
			}
		}
		t.Row(short(v.ID), shortName(v.Volume), v.Profile.Name, sizeOr(v.Size, v.Profile.Size, "no limit"), used(v),
			v.PoolName,
			strconv.Itoa(v.Snapshots), deleted, purged)
	}
	return t
}
