package nodes

import (
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

func newNodeLsCmd(a *cli.App) *cobra.Command {
	var placement string
	cmd := cli.New(a, cli.List[api.Node]{
		Short: "List the nodes",
		Long: `List the nodes. The expression of --placement is about facts, as in a profile's
placement: 'architecture == "x86_64" and load_10 < 20', 'labels.rack == "r1"',
'pool.free > "100GiB"'. An expression about pools matches a node if it matches
one of its pools. Nodes whose facts are not known yet do not match. CPUS, LOAD
and MEMORY FREE are those of the time MEASURED. A draining node is drained once
it has no volume and no replica.`,
		Fetch: cli.FromServer(a, func(ctx context.Context, c cli.Remote, _ cli.ListQuery) ([]api.Node, error) {
			return c.NodeList(ctx, placement)
		}),
		ID:      func(n api.Node) string { return n.ID.String() },
		Columns: func(nodes []api.Node) []cli.Column[api.Node] { return nodeColumns(a, nodes) },
		Compare: cli.By(func(n api.Node) string { return n.Name }),
		Labels:  cli.OwnLabels(func(n api.Node) map[string]string { return n.Labels }),
	})
	cmd.Flags().StringVar(&placement, "placement", "", "list only the nodes that match the `EXPRESSION`")
	return cmd
}

func nodeColumns(a *cli.App, nodes []api.Node) []cli.Column[api.Node] {
	fact := func(header string, cell func(dataset.Facts) string,
		compare func(x, y api.Node) int) cli.Column[api.Node] {
		return cli.Column[api.Node]{Header: header, Compare: compare, Cell: func(n api.Node) string {
			if n.Facts == nil {
				return ""
			}
			return cell(*n.Facts)
		}}
	}
	return []cli.Column[api.Node]{
		{Header: "NAME", Cell: func(n api.Node) string { return n.Name }},
		cli.UUID("NODE", nodes, func(n api.Node) uuid.UUID { return n.ID }),
		{Header: "VERSION", Cell: func(n api.Node) string { return n.Version }},
		{Header: "POOLS", Cell: func(n api.Node) string { return strconv.Itoa(len(n.Pools)) },
			Compare: cli.By(func(n api.Node) int { return len(n.Pools) })},
		{Header: "STATE", Cell: func(n api.Node) string { return nodeState(n, a.Now()) }},
		fact("CPUS", func(f dataset.Facts) string { return strconv.Itoa(f.CPUs) },
			cli.By(func(n api.Node) int { return n.Facts.CPUs })),
		fact("LOAD", func(f dataset.Facts) string { return loadLine(f.Load10) },
			cli.By(func(n api.Node) float64 { return n.Facts.Load10 })),
		fact("MEMORY FREE", func(f dataset.Facts) string { return f.MemoryFree.Human() },
			cli.By(func(n api.Node) dataset.Size { return n.Facts.MemoryFree })),
		cli.Time(a, "MEASURED", func(n api.Node) time.Time { return factsOf(n).Taken }),
		{Header: "LABELS", Cell: func(n api.Node) string { return strings.Join(cli.LabelLines(n.Labels), ",") }},
		{Header: "GUARDED", Wide: true, Cell: func(n api.Node) string { return cli.YesNo(n.GuardRunning) }},
		{Header: "FENCED", Wide: true, Cell: func(n api.Node) string { return cli.YesNo(n.Fenced) }},
		{Header: "UUID", Wide: true, Cell: func(n api.Node) string { return n.ID.String() }},
	}
}

// factsOf returns the facts of a node, or none if they are not known yet.
func factsOf(n api.Node) dataset.Facts {
	if n.Facts == nil {
		return dataset.Facts{}
	}
	return *n.Facts
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
	return "unreachable for " + strings.TrimSuffix(cli.Ago(now, n.StatusSince), " ago")
}
