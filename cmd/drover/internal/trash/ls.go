package trash

import (
	"context"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/droverhq/drover/cmd/drover/internal/cli"
	"github.com/droverhq/drover/cmd/drover/internal/listing"
	"github.com/droverhq/drover/cmd/drover/internal/show"
	"github.com/droverhq/drover/cmd/drover/internal/volumes"
	"github.com/droverhq/drover/control/api"
	"github.com/droverhq/drover/dataset"
)

func newTrashLsCmd(a *cli.App) *cobra.Command {
	return listing.New(a, listing.List[api.Volume]{
		Short: "List the datasets in the trash, latest deleted first",
		Long: `List the datasets in the trash, latest deleted first. A dataset that was purged
is listed as pending deletion until its data is destroyed, with the reason.`,
		Fetch: func(ctx context.Context, c cli.Remote) ([]api.Volume, error) {
			return cli.FetchAll(ctx, c.Trash)
		},
		ID:   volumes.ID,
		Name: volumes.ID,
		Compare: func(x, y api.Volume) int {
			if x.Trash == nil || y.Trash == nil {
				return 0
			}
			return y.Trash.At.Compare(x.Trash.At)
		},
		Moment: &listing.Moment[api.Volume]{Of: deletionTime, Verb: "deleted"},
		Labels: listing.OwnLabels(volumes.Labels),
		Table:  func(volumes []api.Volume) *show.Table { return trashTable(a, volumes) },
		Wide: []listing.Column[api.Volume]{
			{Header: "NODE", Cell: func(v api.Volume) string { return v.Node }},
			{Header: "LABELS", Cell: func(v api.Volume) string { return strings.Join(cli.LabelLines(v.Labels), ",") }},
			{Header: "UUID", Cell: volumes.ID},
		},
		SortBy: map[string]string{
			"size": "size", "in_pool": "status.in_pool", "deleted": "trash.at", "expires": "trash.expires",
			"dataset": "id",
		},
	})
}

func deletionTime(v api.Volume) time.Time {
	if v.Trash == nil {
		return time.Time{}
	}
	return v.Trash.At
}

func trashTable(a *cli.App, trashed []api.Volume) *show.Table {
	short := volumes.ShortDatasets(trashed)
	t := show.NewTable("DATASET", "VOLUME", "PROFILE", "SIZE", "IN POOL", "POOL", "SNAPSHOTS", "DELETED", "EXPIRES")
	for _, v := range trashed {
		deleted, expires := "", ""
		if v.Trash != nil {
			deleted, expires = show.Ago(a.Now(), v.Trash.At), "never"
			if !v.Trash.Expires.IsZero() {
				expires = show.Ago(a.Now(), v.Trash.Expires)
			}
		}
		if v.State == dataset.StatePurging {
			expires = "pending deletion: " + v.Pending
		}
		t.Row(short(v.ID), cli.ShortName(v.Volume), v.Profile.Name, cli.SizeOr(v.Size, "no limit"),
			volumes.SizeInPool(v.Status),
			v.PoolName,
			strconv.Itoa(v.Snapshots), deleted, expires)
	}
	return t
}
