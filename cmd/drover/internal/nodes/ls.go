package nodes

import (
	"strconv"
	"strings"
	"time"

	"github.com/google/uuid"
	"github.com/spf13/cobra"

	"github.com/droverhq/drover/cmd/drover/internal/cli"
	"github.com/droverhq/drover/cmd/drover/internal/show"
	"github.com/droverhq/drover/control/api"
)

func newNodeLsCmd(a *cli.App) *cobra.Command {
	var filter string
	cmd := &cobra.Command{
		Use:   "ls",
		Short: "List the nodes",
		Long: `List the nodes. --filter selects those whose facts match an expression, as in
a profile's placement: 'architecture == "x86_64" and load_10 < 20',
'labels.rack == "r1"', 'pool.free > "100GiB"'. An expression about pools matches
a node if it matches one of its pools. Nodes whose facts are not known yet do
not match.`,
		Args:              cli.Args(0),
		ValidArgsFunction: cobra.NoFileCompletions,
	}
	o := cli.OutputFlags(cmd, true)
	cmd.Flags().StringVar(&filter, "filter", "", "`EXPRESSION` over facts")
	cobra.CheckErr(cmd.RegisterFlagCompletionFunc("filter", cobra.NoFileCompletions))
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		if cmd.Flags().Changed("filter") && strings.TrimSpace(filter) == "" {
			return cli.UsageError(cmd, "--filter: the expression is empty")
		}
		c, err := a.Connect()
		if err != nil {
			return err
		}
		nodes, err := c.NodeList(cmd.Context(), filter)
		if err != nil {
			return err
		}
		return cli.PrintList(a, o, nodes, func(n api.Node) string { return n.ID.String() },
			func(nodes []api.Node) *show.Table {
				return nodeTable(nodes, a.Now())
			})
	}
	return cmd
}

func nodeTable(nodes []api.Node, now time.Time) *show.Table {
	ids := make([]uuid.UUID, len(nodes))
	for i, n := range nodes {
		ids[i] = n.ID
	}
	short := show.Shorten(ids)
	t := show.NewTable("NAME", "NODE", "VERSION", "POOLS", "STATE", "CPUS", "LOAD", "MEMORY FREE",
		"LAST REPORT", "LABELS")
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

// nodeState returns whether control hears from a node, and if not, since when, and whether the node is cordoned.
func nodeState(n api.Node, now time.Time) string {
	state := reachability(n, now)
	switch {
	case n.Draining:
		state += ", draining"
	case n.Cordoned:
		state += ", cordoned"
	}
	return state
}

// reachability returns whether control hears from a node, and if not, since when.
func reachability(n api.Node, now time.Time) string {
	switch {
	case n.Live:
		return "live"
	case n.StatusSince.IsZero():
		return "unreachable"
	}
	return "unreachable for " + strings.TrimSuffix(show.Ago(now, n.StatusSince), " ago")
}
