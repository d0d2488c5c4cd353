package volumes

import (
	"context"
	"fmt"
	"strconv"
	"strings"

	"github.com/google/uuid"
	"github.com/spf13/cobra"

	"github.com/droverhq/drover/cmd/drover/internal/cli"
	"github.com/droverhq/drover/cmd/drover/internal/listing"
	"github.com/droverhq/drover/cmd/drover/internal/show"
	"github.com/droverhq/drover/control/api"
	"github.com/droverhq/drover/dataset"
)

func newVolumeLsCmd(a *cli.App) *cobra.Command {
	return listing.New(a, listing.List[api.Volume]{
		Short: "List the volumes",
		Fetch: func(ctx context.Context, c cli.Remote) ([]api.Volume, error) { return cli.FetchAll(ctx, c.Volumes) },
		FetchSummaries: func(ctx context.Context, c cli.Remote) ([]api.Volume, error) {
			return cli.FetchAll(ctx, func(ctx context.Context, p api.Page) (api.List[api.Volume], error) {
				p.Summary = true
				return c.Volumes(ctx, p)
			})
		},
		ID:     ID,
		Name:   Name,
		Labels: listing.OwnLabels(Labels),
		Table:  func(volumes []api.Volume) *show.Table { return volumeTable(a, volumes) },
		Wide: []listing.Column[api.Volume]{
			{Header: "BACKEND", Cell: func(v api.Volume) string { return v.Backend }},
			{Header: "PROTECTED", Cell: func(v api.Volume) string { return cli.YesNo(v.Protected) }},
			{Header: "ACCESS", Cell: func(v api.Volume) string { return cli.AccessLine(v.Profile.Access) }},
			{Header: "LABELS", Cell: func(v api.Volume) string { return strings.Join(cli.LabelLines(v.Labels), ",") }},
			{Header: "ALIASES", Cell: func(v api.Volume) string { return strings.Join(v.Aliases, ",") }},
			{Header: "UUID", Cell: ID},
		},
		SortBy: map[string]string{
			"size": "size", "used": "status.used", "created": "created", "dataset": "id",
		},
	})
}

// Name returns the name of a volume.
func Name(v api.Volume) string { return v.Volume }

// Labels returns the labels of a volume.
func Labels(v api.Volume) map[string]string { return v.Labels }

// ID returns the UUID of the dataset of a volume.
func ID(v api.Volume) string { return v.ID.String() }

func volumeTable(a *cli.App, volumes []api.Volume) *show.Table {
	t := show.NewTable("NAME", "PROFILE", "SIZE", "USED", "USE%", "STATUS", "POOL", "NODE", "DATASET", "SNAPSHOTS",
		"CREATED")
	short := ShortDatasets(volumes)
	for _, v := range volumes {
		t.Row(cli.ShortName(v.Volume), v.Profile.Name, cli.SizeOr(v.Size, v.Profile.Size, "no limit"),
			UsedSize(v), PercentUsed(v), status(v),
			v.PoolName, v.Node,
			short(v.ID), strconv.Itoa(v.Snapshots), show.Ago(a.Now(), v.Created))
	}
	p := a.Palette()
	t.Paint(5, func(s string) string {
		switch {
		case s == statusProblem, s == statusOffline, strings.HasSuffix(s, ", "+dataset.Full.String()):
			return p.Red(s)
		case s == statusUnknown, strings.HasSuffix(s, dataset.NearlyFull.String()):
			return p.Yellow(s)
		}
		return s
	})
	return t
}

// ShortDatasets returns a function that shortens the UUIDs of these volumes and keeps them unique.
func ShortDatasets(volumes []api.Volume) func(uuid.UUID) string {
	ids := make([]uuid.UUID, len(volumes))
	for i, v := range volumes {
		ids[i] = v.ID
	}
	return show.Shorten(ids)
}

// Values that status returns.
const (
	statusUnknown = "unknown"
	statusProblem = "problem"
	statusOffline = "offline" // the pool is offline
)

// status returns the state of a volume in a few words: its use, and how full it is if little space is left.
func status(v api.Volume) string {
	if is, _ := Fullness(v); is != dataset.NotFull && v.Status.Problem == "" {
		return useOf(v) + ", " + is.String()
	}
	return useOf(v)
}

// useOf returns who uses a volume in a word or two.
func useOf(v api.Volume) string {
	switch st := v.Status; {
	case st == nil:
		return statusUnknown
	case strings.HasPrefix(st.Problem, "pool "+v.PoolName+" is offline"):
		return statusOffline
	case st.Problem != "":
		return statusProblem
	case countSharedMounts(v) > 0:
		return sharedMountStatus(v)
	case len(st.Mounts) > 0:
		return fmt.Sprintf("in use by %d", len(st.Mounts))
	case st.Mounted:
		return "mounted"
	}
	return "idle"
}
