package volumes

import (
	"context"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/google/uuid"
	"github.com/spf13/cobra"

	"github.com/droverhq/drover/cmd/drover/internal/cli"
	"github.com/droverhq/drover/control/api"
	"github.com/droverhq/drover/dataset"
)

// listed is a volume of drover volume ls. A table only needs the summary, which is much smaller.
type listed struct {
	api.VolumeSummary
	whole *api.Volume // only for -o json and yaml
}

func newVolumeLsCmd(a *cli.App) *cobra.Command {
	return cli.New(a, cli.List[listed]{
		Short: "List the volumes",
		Long: `List the volumes. USED and USE% are those of df in the container, at most 15
seconds old, or when the volume was last mounted. IN POOL is the space
that the volume occupies in its pool.`,
		Fetch:   cli.FromServer(a, fetchListed),
		ID:      func(v listed) string { return v.ID.String() },
		Columns: func(volumes []listed) []cli.Column[listed] { return volumeColumns(a, volumes) },
		Object:  func(v listed) any { return v.whole },
		Compare: cli.By(func(v listed) string { return v.Volume }),
		Labels:  cli.OwnLabels(func(v listed) map[string]string { return v.Labels }),
	})
}

func fetchListed(ctx context.Context, c cli.Remote, q cli.ListQuery) (list []listed, err error) {
	if !q.Objects {
		summaries, err := cli.FetchAll(ctx, c.VolumeSummaries)
		for i := range summaries {
			list = append(list, listed{VolumeSummary: summaries[i]})
		}
		return list, err
	}
	volumes, err := cli.FetchAll(ctx, c.Volumes)
	for i := range volumes {
		list = append(list, listed{volumes[i].Summary(), &volumes[i]})
	}
	return list, err
}

func volumeColumns(a *cli.App, volumes []listed) []cli.Column[listed] {
	return []cli.Column[listed]{
		cli.Volume("NAME", func(v listed) string { return v.Volume }),
		{Header: "PROFILE", Cell: func(v listed) string { return v.Profile.Name }},
		{Header: "SIZE", Cell: func(v listed) string { return cli.SizeOr(v.Size, "no limit") },
			Compare: cli.By(func(v listed) dataset.Size { return cli.Limit(v.Size) })},
		{Header: "USED", Cell: func(v listed) string { return usedSize(v.Status, v.Size) },
			Compare: cli.By(func(v listed) dataset.Size { return *v.Status.Used })},
		{Header: "USE%", Cell: func(v listed) string { return percentUsed(v.Status) },
			Compare: cli.By(func(v listed) int { return v.Status.Usage.Percent() })},
		{Header: "IN POOL", Cell: func(v listed) string { return sizeInPool(v.Status) },
			Compare: cli.By(func(v listed) dataset.Size { return *v.Status.InPool })},
		{Header: "STATUS", Cell: func(v listed) string { return status(&v.VolumeSummary) }, Paint: paintStatus(a)},
		{Header: "POOL", Cell: func(v listed) string { return v.PoolName }},
		{Header: "NODE", Cell: func(v listed) string { return v.Node }},
		cli.UUID("DATASET", volumes, func(v listed) uuid.UUID { return v.ID }),
		{Header: "SNAPSHOTS", Cell: func(v listed) string { return strconv.Itoa(v.Snapshots) },
			Compare: cli.By(func(v listed) int { return v.Snapshots })},
		cli.Time(a, "CREATED", func(v listed) time.Time { return v.Created }),
		{Header: "BACKEND", Wide: true, Cell: func(v listed) string { return v.Backend }},
		{Header: "PROTECTED", Wide: true, Cell: func(v listed) string { return cli.YesNo(v.Protected) }},
		{Header: "ACCESS", Wide: true, Cell: func(v listed) string { return cli.AccessLine(v.Profile.Access) }},
		{Header: "LABELS", Wide: true,
			Cell: func(v listed) string { return strings.Join(cli.LabelLines(v.Labels), ",") }},
		{Header: "ALIASES", Wide: true, Cell: func(v listed) string { return strings.Join(v.Aliases, ",") }},
		{Header: "UUID", Wide: true, Cell: func(v listed) string { return v.ID.String() }},
	}
}

// paintStatus returns a function that colours the status of a volume.
func paintStatus(a *cli.App) func(string) string {
	p := a.Palette()
	return func(s string) string {
		switch {
		case s == statusProblem, s == statusOffline, s == statusUnreachable,
			strings.HasSuffix(s, ", "+dataset.Full.String()):
			return p.Red(s)
		case s == statusUnknown, strings.HasSuffix(s, dataset.NearlyFull.String()):
			return p.Yellow(s)
		}
		return s
	}
}

// ShortDatasets returns a function that shortens the UUIDs of these volumes and keeps them unique.
func ShortDatasets(volumes []api.Volume) func(uuid.UUID) string {
	ids := make([]uuid.UUID, len(volumes))
	for i, v := range volumes {
		ids[i] = v.ID
	}
	return cli.Shorten(ids)
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
