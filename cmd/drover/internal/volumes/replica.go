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

// The states of a replica in the output.
const (
	replicaHealthy  = "healthy"
	replicaStale    = "stale"
	replicaBuilding = "building"
)

// ReplicaCommand makes drover replica with its subcommands.
func ReplicaCommand(a *cli.App) *cobra.Command {
	return cli.Group(&cobra.Command{
		Use:   "replica",
		Short: "Inspect replicas",
		Long: `Inspect replicas. The profile of a volume says how many replicas it has, and
how often they are refreshed; drover volume set-profile changes it. Control
places the replicas, and replaces those of a lost node.`,
	},
		newReplicaLsCmd(a),
	)
}

// replica is a replica of a volume, with those fields of the volume that a table shows.
type replica struct {
	api.CopyDetail
	Volume   string    `json:"volume"`
	HomeName string    `json:"home_name"`         // name of the volume's home
	State    string    `json:"state"`             // healthy, stale or building
	Verified time.Time `json:"verified,omitzero"` // when it last had all data of the home; zero: it is not complete

	labels map[string]string // labels of the volume
}

func newReplicaLsCmd(a *cli.App) *cobra.Command {
	return cli.New(a, cli.List[replica]{
		Use:   "ls [VOLUME...]",
		Short: "List the replicas of all or some volumes",
		Long: `List the replicas of all or some volumes. VERIFIED is when the replica last had
all data of the volume's home: data that was written later is lost if the home
is lost. A replica is stale if that was longer ago than three times the interval
of the profile, and at least five minutes.`,
		ValidArgs: cli.Complete(a, cli.VolumeWords),
		Fetch: cli.FromServer(a, func(ctx context.Context, c cli.Remote, q cli.ListQuery) ([]replica, error) {
			return fetchReplicas(ctx, a, c, q.Args)
		}),
		ID:      func(r replica) string { return r.Dataset.String() },
		Columns: func([]replica) []cli.Column[replica] { return replicaColumns(a) },
		Compare: func(x, y replica) int {
			return cmp.Or(strings.Compare(x.Volume, y.Volume), strings.Compare(x.NodeName, y.NodeName))
		},
		Labels: cli.OwnLabels(func(r replica) map[string]string { return r.labels }),
	})
}

// fetchReplicas returns the replicas of the named volumes or, without names, of all volumes.
func fetchReplicas(ctx context.Context, a *cli.App, c cli.Remote, names []string) (list []replica, err error) {
	var volumes []api.Volume
	if len(names) == 0 {
		volumes, err = cli.FetchAll(ctx, c.Volumes)
	}
	for _, name := range names {
		v, err := c.Volume(ctx, name)
		if err != nil {
			return nil, err
		}
		volumes = append(volumes, v)
	}
	for _, v := range volumes {
		for _, k := range v.CopyDetails {
			if k.Kind == dataset.CopyReplica {
				list = append(list, newReplica(v, k, a.Now()))
			}
		}
	}
	return list, err
}

func newReplica(v api.Volume, k api.CopyDetail, now time.Time) replica {
	r := replica{CopyDetail: k, Volume: v.Volume, HomeName: v.Node, State: replicaBuilding, labels: v.Labels}
	if k.Snapshot == uuid.Nil {
		return r
	}
	r.State = replicaHealthy
	var stale bool
	if r.Verified, stale = IsStale(v.Profile.Replicas, k, now); stale {
		r.State = replicaStale
	}
	return r
}

func replicaColumns(a *cli.App) []cli.Column[replica] {
	colors := a.Palette()
	return []cli.Column[replica]{
		cli.Volume("VOLUME", func(r replica) string { return r.Volume }),
		{Header: "NODE", Cell: func(r replica) string { return r.NodeName }},
		{Header: "HOME", Cell: func(r replica) string { return r.HomeName }},
		{Header: "STATE", Cell: func(r replica) string { return r.State }, Paint: func(s string) string {
			if s == replicaStale || s == replicaBuilding {
				return colors.Yellow(s)
			}
			return s
		}},
		cli.Time(a, "VERIFIED", func(r replica) time.Time { return r.Verified }),
		{Header: "PROBLEM", Cell: func(r replica) string { return r.Problem }},
		{Header: "EPOCH", Wide: true, Cell: func(r replica) string { return strconv.FormatUint(r.Epoch, 10) },
			Compare: cli.By(func(r replica) uint64 { return r.Epoch })},
		{Header: "SNAPSHOT", Wide: true, Cell: func(r replica) string { return r.Snapshot.String() }},
	}
}
