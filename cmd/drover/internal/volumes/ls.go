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

func newVolumeLsCmd(a *cli.App) *cobra.Command { return listing.New(a, volumeList(a)) }

func volumeList(a *cli.App) listing.List[api.Volume] {
	sortBy := map[string]string{
		"size": "size", "used": "status.used", "in_pool": "status.in_pool", "created": "created", "dataset": "id",
	}
	whole := listing.List[api.Volume]{
		Short: "List the volumes",
		Long: `List the volumes. USED and USE% are those of df in the container, at most 15
seconds old, or when the volume was last mounted. IN POOL is the space
that the volume occupies in its pool.`,
		Fetch: func(ctx context.Context, c cli.Remote) ([]api.Volume, error) { return cli.FetchAll(ctx, c.Volumes) },
		Summaries: listing.List[api.VolumeSummary]{
			Fetch: func(ctx context.Context, c cli.Remote) ([]api.VolumeSummary, error) {
				return cli.FetchAll(ctx, c.VolumeSummaries)
			},
			ID:     func(v api.VolumeSummary) string { return v.ID.String() },
			Name:   func(v api.VolumeSummary) string { return v.Volume },
			Labels: listing.OwnLabels(func(v api.VolumeSummary) map[string]string { return v.Labels }),
			Table:  func(volumes []api.VolumeSummary) *show.Table { return volumeTable(a, volumes) },
			Wide:   wideColumns,
			SortBy: sortBy,
		},
		ID:     ID,
		Name:   Name,
		Labels: listing.OwnLabels(Labels),
		Table: func(volumes []api.Volume) *show.Table {
			return volumeTable(a, api.Summarize(api.List[api.Volume]{Items: volumes}).Items)
		},
		SortBy: sortBy,
	}
	for _, c := range wideColumns {
		whole.Wide = append(whole.Wide, listing.Column[api.Volume]{
			Header: c.Header, Cell: func(v api.Volume) string { return c.Cell(v.Summary()) },
		})
	}
	return whole
}

// wideColumns are the columns that -o wide adds.
var wideColumns = []listing.Column[api.VolumeSummary]{
	{Header: "BACKEND", Cell: func(v api.VolumeSummary) string { return v.Backend }},
	{Header: "PROTECTED", Cell: func(v api.VolumeSummary) string { return cli.YesNo(v.Protected) }},
	{Header: "ACCESS", Cell: func(v api.VolumeSummary) string { return cli.AccessLine(v.Profile.Access) }},
	{Header: "LABELS", Cell: func(v api.VolumeSummary) string { return strings.Join(cli.LabelLines(v.Labels), ",") }},
	{Header: "ALIASES", Cell: func(v api.VolumeSummary) string { return strings.Join(v.Aliases, ",") }},
	{Header: "UUID", Cell: func(v api.VolumeSummary) string { return v.ID.String() }},
}

// Name returns the name of a volume.
func Name(v api.Volume) string { return v.Volume }

// Labels returns the labels of a volume.
func Labels(v api.Volume) map[string]string { return v.Labels }

// ID returns the UUID of the dataset of a volume.
func ID(v api.Volume) string { return v.ID.String() }

func volumeTable(a *cli.App, volumes []api.VolumeSummary) *show.Table {
	t := show.NewTable("NAME", "PROFILE", "SIZE", "USED", "USE%", "IN POOL", "STATUS", "POOL", "NODE", "DATASET",
		"SNAPSHOTS", "CREATED")
	ids := make([]uuid.UUID, len(volumes))
	for i := range volumes {
		ids[i] = volumes[i].ID
	}
	short, now := show.Shorten(ids), a.Now()
	for i := range volumes {
		v := &volumes[i] // thousands of large items are not copied
		t.Row(cli.ShortName(v.Volume), v.Profile.Name, cli.SizeOr(v.Size, "no limit"),
			UsedSize(v.Status, v.Size), PercentUsed(v.Status), SizeInPool(v.Status), status(v),
			v.PoolName, v.Node,
			short(v.ID), strconv.Itoa(v.Snapshots), show.Ago(now, v.Created))
	}
	p := a.Palette()
	t.Paint(6, func(s string) string {
		switch {
		case s == statusProblem, s == statusOffline, s == statusUnreachable,
			strings.HasSuffix(s, ", "+dataset.Full.String()):
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
	// statusUnreachable means that the home of the volume is unreachable. Its last report may be outdated.
	statusUnreachable = "unreachable"
)

// status returns the state of a volume in a few words: its use, and how full it is if little space is left.
func status(v *api.VolumeSummary) string {
	if v.Unreachable {
		return statusUnreachable
	}
	if is, _ := Fullness(v.Status, v.Size); is != dataset.NotFull && v.Status.Problem == "" {
		return useOf(v) + ", " + is.String()
	}
	return useOf(v)
}

// useOf returns in a word or two how a volume is used, or that it cannot be used.
func useOf(v *api.VolumeSummary) string {
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
