package nodes

import (
	"strconv"
	"strings"
	"time"

	"github.com/google/uuid"
	"github.com/spf13/cobra"

	"github.com/droverhq/drover/cmd/drover/internal/cli"
	"github.com/droverhq/drover/cmd/drover/internal/listing"
	"github.com/droverhq/drover/cmd/drover/internal/show"
	"github.com/droverhq/drover/control/api"
)

func newNodeLsCmd(a *cli.App) *cobra.Command {
	return listing.New(a, listing.List[api.Node]{
		Short: "List the nodes",
		Long: `List the nodes. A --filter that is not KEY=VALUE is an expression about facts,
as in a profile's placement: 'architecture == "x86_64" and load_10 < 20',
'labels.rack == "r1"', 'pool.free > "100GiB"'. An expression about pools matches
a node if it matches one of its pools. Nodes whose facts are not known yet do
not match. CPUS, LOAD and MEMORY FREE are those of the time MEASURED. A draining
node is drained once it has no volume and no replica.`,
		FetchMatching: func(cmd *cobra.Command, q listing.Query) ([]api.Node, error) {
			c, err := a.Connect()
			if err != nil {
				return nil, err
			}
			return c.NodeList(cmd.Context(), q.Expression)
		},
		Expressions: true,
		ID:          func(n api.Node) string { return n.ID.String() },
		Name:        func(n api.Node) string { return n.Name },
		Labels:      listing.OwnLabels(func(n api.Node) map[string]string { return n.Labels }),
		Table:       func(nodes []api.Node) *show.Table { return nodeTable(nodes, a.Now()) },
		Wide: []listing.Column[api.Node]{
			{Header: "GUARDED", Cell: func(n api.Node) string { return cli.YesNo(n.GuardRunning) }},
			{Header: "FENCED", Cell: func(n api.Node) string { return cli.YesNo(n.Fenced) }},
			{Header: "UUID", Cell: func(n api.Node) string { return n.ID.String() }},
		},
		SortBy: map[string]string{"node": "id", "memory_free": "facts.memory_free", "measured": "facts.taken"},
	})
}

func nodeTable(nodes []api.Node, now time.Time) *show.Table {
	ids := make([]uuid.UUID, len(nodes))
	for i, n := range nodes {
		ids[i] = n.ID
	}
	short := show.Shorten(ids)
	t := show.NewTable("NAME", "NODE", "VERSION", "POOLS", "STATE", "CPUS", "LOAD", "MEMORY FREE",
		"MEASURED", "LABELS")
	for _, n := range nodes {
		cpus, load, free, age := "", "", "", ""
		if f := n.Facts; f != nil {
			cpus, load, free, age = strconv.Itoa(f.CPUs), loadLine(f.Load10), f.MemoryFree.Human(),
				show.Ago(now, f.Taken)
		}
		t.Row(n.Name, short(n.ID), n.Version, strconv.Itoa(len(n.Pools)), nodeState(n, now),
			cpus, load, free, age, strings.Join(cli.LabelLines(n.Labels), ","))
	}
	return t
}

func loadLine(load float64) string { return strconv.FormatFloat(load, 'f', 2, 64) }

// nodeState returns the state of a node for a table: its reachability, and whether it is cordoned, draining or drained.
func nodeState(n api.Node, now time.Time) string {
	state := reachability(n, now)
	switch {
	case n.Drained:
		state += ", drained"
	case n.Draining:
		state += ", draining"
	case n.Cordoned:
		state += ", cordoned"
	}
	return state
}

// reachability returns whether a node reports to control, or since when it has not reported.
func reachability(n api.Node, now time.Time) string {
	switch {
	case n.Live:
		return "live"
	case n.StatusSince.IsZero():
		return "unreachable"
	}
	return "unreachable for " + strings.TrimSuffix(show.Ago(now, n.StatusSince), " ago")
}
