package volumes

import (
	"cmp"
	"context"
	"strconv"
	"strings"
	"time"

	"github.com/google/uuid"
	"github.com/spf13/cobra"

	"github.com/droverhq/drover/cmd/drover/internal/cli"
	"github.com/droverhq/drover/control/api"
	"github.com/droverhq/drover/dataset"
)

// The states of a copy in the output.
const (
	replicaHealthy  = "healthy"
	replicaStale    = "stale"
	replicaBuilding = "building"
	copySuperseded  = "superseded"
)

// CopyCommand makes drover copy with its subcommands.
func CopyCommand(a *cli.App) *cobra.Command {
	return cli.Group(&cobra.Command{
		Use:        "copy",
		SuggestFor: []string{"replica", "superseded"},
		Short:      "Manage replicas and superseded copies",
		Long: `Manage the copies of volumes on other nodes than their homes.

The profile of a volume says how many replicas it has, and how often they are
refreshed; drover volume set-profile changes it. Control places the replicas,
and replaces those of a lost node.

If a volume continues on another node without its home (drover volume move
--force --fenced), the data on the old home becomes a superseded copy. It is
never merged, and never removed automatically. mount gives access to its data,
discard destroys it.`,
	},
		newCopyLsCmd(a), newCopyMountCmd(a), newCopyDiscardCmd(a),
	)
}

// volumeCopy is a replica or a superseded copy of a volume, with those fields of the volume that a table shows.
type volumeCopy struct {
	api.CopyDetail
	Volume   string    `json:"volume"`
	HomeName string    `json:"home_name"`         // name of the volume's home
	State    string    `json:"state"`             // healthy, stale, building or superseded
	Verified time.Time `json:"verified,omitzero"` // when it last had all data of the home; zero: it is not complete

	labels map[string]string // labels of the volume
}

func newCopyLsCmd(a *cli.App) *cobra.Command {
	return cli.New(a, cli.List[volumeCopy]{
		Use:   "ls [VOLUME...]",
		Short: "List the replicas and superseded copies of all or some volumes",
		Long: `List the replicas and superseded copies of all or some volumes. VERIFIED is when
the copy last had all data of the volume's home. Data that was written later is
lost if the home is lost. A replica is stale if that was longer ago than three
times the interval of the profile, and at least five minutes. A superseded copy
has data that its volume lacks. If it has no time yet, it is in use, or its node
is unreachable. MOUNTED AT is where drover copy mount has mounted it.`,
		ValidArgs: cli.Complete(a, cli.VolumeWords),
		Fetch: cli.FromServer(a, func(ctx context.Context, c cli.Remote, q cli.ListQuery) ([]volumeCopy, error) {
			return fetchCopies(ctx, a, c, q.Args)
		}),
		ID:      func(k volumeCopy) string { return k.Dataset.String() },
		Columns: func([]volumeCopy) []cli.Column[volumeCopy] { return copyColumns(a) },
		Compare: func(x, y volumeCopy) int {
			return cmp.Or(strings.Compare(x.Volume, y.Volume), strings.Compare(x.NodeName, y.NodeName))
		},
		Labels: cli.OwnLabels(func(k volumeCopy) map[string]string { return k.labels }),
	})
}

// fetchCopies returns the replicas and superseded copies of the named volumes. Without names it returns those of all
// volumes, and of what is in the trash.
func fetchCopies(ctx context.Context, a *cli.App, c cli.Remote, names []string) ([]volumeCopy, error) {
	var all []api.Volume
	for _, name := range names {
		v, err := c.Volume(ctx, name)
		if err != nil {
			return nil, err
		}
		all = append(all, v)
	}
	if len(names) == 0 {
		live, err := cli.FetchAll(ctx, c.Volumes)
		if err != nil {
			return nil, err
		}
		trashed, err := cli.FetchAll(ctx, c.Trash)
		if err != nil {
			return nil, err
		}
		all = append(live, trashed...)
	}
	return copiesOf(all, a.Now()), nil
}

func copiesOf(all []api.Volume, now time.Time) (out []volumeCopy) {
	for _, v := range all {
		for _, k := range v.CopyDetails {
			if k.Kind == dataset.CopyReplica || k.Kind == dataset.CopySuperseded {
				out = append(out, newVolumeCopy(v, k, now))
			}
		}
	}
	return out
}

func newVolumeCopy(v api.Volume, k api.CopyDetail, now time.Time) volumeCopy {
	c := volumeCopy{CopyDetail: k, Volume: v.Volume, HomeName: v.Node, labels: v.Labels}
	switch {
	case k.Kind == dataset.CopySuperseded:
		c.State, c.Verified = copySuperseded, k.Taken
	case k.Snapshot == uuid.Nil:
		c.State = replicaBuilding
	default:
		c.State = replicaHealthy
		var stale bool
		if c.Verified, stale = IsStale(v.Profile.Replicas, k, now); stale {
			c.State = replicaStale
		}
	}
	return c
}

func copyColumns(a *cli.App) []cli.Column[volumeCopy] {
	colors := a.Palette()
	return []cli.Column[volumeCopy]{
		cli.Volume("VOLUME", func(k volumeCopy) string { return k.Volume }),
		{Header: "NODE", Cell: func(k volumeCopy) string { return k.NodeName }},
		{Header: "HOME", Cell: func(k volumeCopy) string { return k.HomeName }},
		{Header: "STATE", Cell: func(k volumeCopy) string { return k.State }, Paint: func(s string) string {
			if s != replicaHealthy {
				return colors.Yellow(s)
			}
			return s
		}},
		cli.Time(a, "VERIFIED", func(k volumeCopy) time.Time { return k.Verified }),
		{Header: "MOUNTED AT", Cell: func(k volumeCopy) string { return k.Path }},
		{Header: "PROBLEM", Cell: func(k volumeCopy) string { return k.Problem }},
		{Header: "EPOCH", Wide: true, Cell: func(k volumeCopy) string { return strconv.FormatUint(k.Epoch, 10) },
			Compare: cli.By(func(k volumeCopy) uint64 { return k.Epoch })},
		{Header: "DATASET", Wide: true, Cell: func(k volumeCopy) string { return k.Dataset.String() }},
		{Header: "SNAPSHOT", Wide: true, Cell: func(k volumeCopy) string {
			if k.Snapshot == uuid.Nil {
				return ""
			}
			return k.Snapshot.String()
		}},
	}
}
