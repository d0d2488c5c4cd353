package main

import (
	"slices"
	"strconv"

	"github.com/spf13/cobra"

	"github.com/droverhq/drover/cmd/drover/internal/show"
	"github.com/droverhq/drover/control/api"
)

func newTrashLsCmd(a *app) *cobra.Command {
	cmd := &cobra.Command{
		Use:               "ls",
		Short:             "List the datasets in the trash, latest deleted first",
		Args:              args(0),
		ValidArgsFunction: cobra.NoFileCompletions,
	}
	o := outputFlags(cmd, true)
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		c, err := a.connect()
		if err != nil {
			return err
		}
		gone, err := all(cmd.Context(), c.Trash)
		if err != nil {
			return err
		}
		slices.SortStableFunc(gone, func(x, y api.Volume) int {
			if x.Trash == nil || y.Trash == nil {
				return 0
			}
			return y.Trash.At.Compare(x.Trash.At)
		})
		return list(a, o, gone, volumeID, a.trashTable)
	}
	return cmd
}

func (a *app) trashTable(gone []api.Volume) *show.Table {
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
		t.Row(short(v.ID), v.Volume, v.Profile.Name, sizeOr(v.Size, "no limit"), used(v), v.PoolName,
			strconv.Itoa(v.Snapshots), deleted, purged)
	}
	return t
}
