package volumes

import (
	"context"
	"math"
	"strconv"
	"strings"
	"time"

	"github.com/google/uuid"
	"github.com/spf13/cobra"

	"github.com/droverhq/drover/cmd/drover/internal/cli"
	"github.com/droverhq/drover/control/api"
	"github.com/droverhq/drover/dataset"
)

func newTrashLsCmd(a *cli.App) *cobra.Command {
	return cli.New(a, cli.List[api.Volume]{
		Short: "List the datasets in the trash, latest deleted first",
		Long: `List the datasets in the trash, latest deleted first. A dataset that was purged
is listed as pending deletion until its data is destroyed, with the reason.`,
		Fetch: cli.FromServer(a, func(ctx context.Context, c cli.Remote, _ cli.ListQuery) ([]api.Volume, error) {
			return cli.FetchAll(ctx, c.Trash)
		}),
		ID:      id,
		Columns: func(trashed []api.Volume) []cli.Column[api.Volume] { return trashColumns(a, trashed) },
		Compare: func(x, y api.Volume) int { return deletionTime(y).Compare(deletionTime(x)) },
		Moment:  &cli.Moment[api.Volume]{Of: deletionTime, Verb: "deleted"},
		Labels:  cli.OwnLabels(func(v api.Volume) map[string]string { return v.Labels }),
	})
}

func id(v api.Volume) string { return v.ID.String() }

func deletionTime(v api.Volume) time.Time {
	if v.Trash == nil {
		return time.Time{}
	}
	return v.Trash.At
}

func trashColumns(a *cli.App, trashed []api.Volume) []cli.Column[api.Volume] {
	return []cli.Column[api.Volume]{
		cli.UUID("DATASET", trashed, func(v api.Volume) uuid.UUID { return v.ID }),
		cli.Volume("VOLUME", func(v api.Volume) string { return v.Volume }),
		{Header: "PROFILE", Cell: func(v api.Volume) string { return v.Profile.Name }},
		{Header: "SIZE", Cell: func(v api.Volume) string { return cli.SizeOr(v.Size, "no limit") },
			Compare: cli.By(func(v api.Volume) dataset.Size { return cli.Limit(v.Size) })},
		{Header: "IN POOL", Cell: func(v api.Volume) string { return sizeInPool(v.Status) },
			Compare: cli.By(func(v api.Volume) dataset.Size { return *v.Status.InPool })},
		{Header: "POOL", Cell: func(v api.Volume) string { return v.PoolName }},
		{Header: "SNAPSHOTS", Cell: func(v api.Volume) string { return strconv.Itoa(v.Snapshots) },
			Compare: cli.By(func(v api.Volume) int { return v.Snapshots })},
		cli.Time(a, "DELETED", deletionTime),
		{Header: "EXPIRES", Cell: func(v api.Volume) string { return expiry(a, v) },
			Compare: cli.By(func(v api.Volume) int64 {
				if expiryTime(v).IsZero() {
					return math.MaxInt64 // never
				}
				return expiryTime(v).Unix()
			})},
		{Header: "NODE", Wide: true, Cell: func(v api.Volume) string { return v.Node }},
		{Header: "LABELS", Wide: true,
			Cell: func(v api.Volume) string { return strings.Join(cli.LabelLines(v.Labels), ",") }},
		{Header: "UUID", Wide: true, Cell: id},
	}
}

// expiry says when the data of a dataset in the trash is destroyed.
func expiry(a *cli.App, v api.Volume) string {
	switch {
	case v.State == dataset.StatePurging:
		return "pending deletion: " + v.Pending
	case v.Trash != nil && v.Trash.Expires.IsZero():
		return "never"
	}
	return cli.Ago(a.Now(), expiryTime(v))
}

func expiryTime(v api.Volume) time.Time {
	if v.Trash == nil {
		return time.Time{}
	}
	return v.Trash.Expires
}
