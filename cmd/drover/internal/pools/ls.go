package pools

import (
	"cmp"
	"context"
	"fmt"
	"strings"

	"github.com/google/uuid"
	"github.com/spf13/cobra"

	"github.com/droverhq/drover/cmd/drover/internal/cli"
	"github.com/droverhq/drover/control/api"
	"github.com/droverhq/drover/dataset"
)

// The states of a pool in the output. State returns one of them. Package nodes also compares with Held.
const (
	poolOnline  = "online"
	poolOffline = "offline"
	Held        = "held"
	poolUnknown = "unknown"
	// poolUnreachable means that the node of the pool is unreachable. Its last report may be outdated.
	poolUnreachable = "unreachable"
)

func newPoolLsCmd(a *cli.App) *cobra.Command {
	return cli.New(a, cli.List[api.Pool]{
		Short: "List the pools",
		Long: `List the pools. OVERCOMMIT is the present ratio of the sizes of all volumes to
the size of the pool, and its limit if the pool has one: 0.3, at most 1.5.
drover pool set changes the limit.`,
		Fetch: cli.FromServer(a, func(ctx context.Context, c cli.Remote, _ cli.ListQuery) ([]api.Pool, error) {
			return c.Pools(ctx)
		}),
		ID:      func(p api.Pool) string { return p.ID.String() },
		Columns: func([]api.Pool) []cli.Column[api.Pool] { return poolColumns(a) },
		Compare: func(x, y api.Pool) int {
			return cmp.Or(strings.Compare(x.Name, y.Name), strings.Compare(x.NodeName, y.NodeName))
		},
		Labels: nodeLabels,
	})
}

// nodeLabels returns a function that returns the labels of the node of a pool.
func nodeLabels(ctx context.Context, c cli.Remote) (func(api.Pool) map[string]string, error) {
	nodes, err := c.NodeList(ctx, "")
	labels := map[uuid.UUID]map[string]string{}
	for _, n := range nodes {
		labels[n.ID] = n.Labels
	}
	return func(p api.Pool) map[string]string { return labels[p.Node] }, err
}

func poolColumns(a *cli.App) []cli.Column[api.Pool] {
	colors := a.Palette()
	// measure is a column of a size or ratio that only an online pool has.
	measure := func(header string, cell func(dataset.PoolStatus) string,
		value func(dataset.PoolStatus) float64) cli.Column[api.Pool] {
		return cli.Column[api.Pool]{
			Header: header,
			Cell: func(p api.Pool) string {
				if p.Status == nil || !p.Status.Online {
					return ""
				}
				return cell(*p.Status)
			},
			Compare: cli.By(func(p api.Pool) float64 { return value(*p.Status) }),
		}
	}
	ofSize := func(cell func(dataset.PoolStatus) string) func(dataset.PoolStatus) string {
		return func(st dataset.PoolStatus) string {
			if st.Size == 0 {
				return ""
			}
			return cell(st)
		}
	}
	return []cli.Column[api.Pool]{
		{Header: "NAME", Cell: func(p api.Pool) string { return p.Name }},
		{Header: "NODE", Cell: func(p api.Pool) string { return p.NodeName }},
		{Header: "BACKEND", Cell: func(p api.Pool) string { return p.Backend }},
		{Header: "STATE", Cell: stateLine, Paint: func(s string) string { return paintState(colors, s) }},
		measure("SIZE", func(st dataset.PoolStatus) string { return st.Size.Human() },
			func(st dataset.PoolStatus) float64 { return float64(st.Size) }),
		measure("USED", ofSize(func(st dataset.PoolStatus) string { return st.Usage().Used.Human() }),
			func(st dataset.PoolStatus) float64 { return float64(st.Usage().Used) }),
		measure("USE%", ofSize(func(st dataset.PoolStatus) string { return fmt.Sprintf("%d%%", st.Usage().Percent()) }),
			func(st dataset.PoolStatus) float64 { return float64(st.Usage().Percent()) }),
		measure("FREE", func(st dataset.PoolStatus) string { return st.Free.Human() },
			func(st dataset.PoolStatus) float64 { return float64(st.Free) }),
		measure("OVERCOMMIT", ofSize(overcommit), dataset.PoolStatus.OvercommitRatio),
		{Header: "PATH", Cell: func(p api.Pool) string { return p.Path }, Below: func(p api.Pool) string {
			if p.Status == nil || !p.Status.Quarantined {
				return ""
			}
			return p.Status.Reason
		}},
		{Header: "OVERCOMMIT LIMIT", Wide: true, Cell: overcommitLimit},
		{Header: "REACH", Wide: true, Cell: func(p api.Pool) string { return string(p.Reach) }},
		{Header: "DEVICES", Wide: true, Cell: func(p api.Pool) string { return strings.Join(p.Devices, ",") }},
		{Header: "UUID", Wide: true, Cell: func(p api.Pool) string { return p.ID.String() }},
	}
}

// overcommitLimit returns the limit of a pool's overcommit, or "" if it is not known.
func overcommitLimit(p api.Pool) string {
	switch {
	case p.Status == nil || !p.Status.Online:
		return ""
	case p.Status.Overcommit > 0:
		return dataset.FormatRatio(p.Status.Overcommit)
	}
	return "none"
}

// paintState colours the state of a pool, or how full a volume is.
func paintState(colors cli.Palette, s string) string {
	switch {
	case s == poolOnline, s == "":
		return s
	case strings.HasSuffix(s, dataset.NearlyFull.String()):
		return colors.Yellow(s)
	}
	return colors.Red(s)
}

// State returns the state of a pool in one word.
func State(p api.Pool) string {
	switch {
	case p.Unreachable:
		return poolUnreachable
	case p.Status == nil:
		return poolUnknown
	case p.Status.Online:
		return poolOnline
	case p.Status.Quarantined:
		return Held
	}
	return poolOffline
}

// stateLine returns the state of a pool, and how full it is if little space is left.
func stateLine(p api.Pool) string {
	if State(p) == poolOnline && p.Status.Fullness() != dataset.NotFull {
		return poolOnline + ", " + p.Status.Fullness().String()
	}
	return State(p)
}

// provisionedLine returns how large the volumes of a pool may become, compared with its size.
func provisionedLine(st dataset.PoolStatus) string {
	if st.Size <= 0 {
		return ""
	}
	return fmt.Sprintf("%s provisioned (overcommit %s)", st.Provisioned.Human(), overcommit(st))
}

// overcommit returns the present overcommit of a pool, and the limit if there is one, such as "0.3, at most 1.5".
func overcommit(st dataset.PoolStatus) string {
	text := dataset.FormatRatio(st.OvercommitRatio())
	if st.Overcommit > 0 {
		text += ", at most " + dataset.FormatRatio(st.Overcommit)
	}
	return text
}

func freeLine(s dataset.PoolStatus) string {
	if s.Size == 0 {
		return s.Free.Human()
	}
	return fmt.Sprintf("%s (%d%%)", s.Free.Human(), int64(100*float64(s.Free)/float64(s.Size)))
}
