package nodes

import (
	"context"
	"fmt"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/droverhq/drover/cmd/drover/internal/cli"
	"github.com/droverhq/drover/cmd/drover/internal/pools"
	"github.com/droverhq/drover/control/api"
	"github.com/droverhq/drover/dataset"
)

func newNodeInspectCmd(a *cli.App) *cobra.Command {
	return cli.Inspect(a, "inspect NODE [NODE...]", "Show nodes in detail", cli.NodeWords, cli.Inspected[api.Node]{
		Get: func(ctx context.Context, _ cli.Remote, name string) (api.Node, error) {
			_, n, _, err := findNode(ctx, a, name)
			return n, err
		},
		Form: func(ctx context.Context, c cli.Remote, n api.Node) *cli.Form {
			return nodeForm(n, poolLines(ctx, c, n), a.Now())
		},
	})
}

// poolLines describes the pools of a node. If they cannot be read, the line says why.
func poolLines(ctx context.Context, c cli.Remote, n api.Node) []string {
	list, err := c.Pools(ctx)
	if err != nil {
		return []string{"not known: " + err.Error()}
	}
	var lines []string
	for _, p := range list {
		if p.Node == n.ID {
			state := pools.State(p)
			if state == pools.Held {
				state += ": " + p.Status.Reason
			}
			lines = append(lines, fmt.Sprintf("%s (%s at %s, %s)", p.Name, p.Backend, p.Path, state))
		}
	}
	return lines
}

func nodeForm(n api.Node, pools []string, now time.Time) *cli.Form {
	f := &cli.Form{}
	f.Add("Node", n.Name)
	f.Add("ID", n.ID.String())
	f.Add("Version", n.Version)
	f.Add("State", reachability(n, now))
	if n.Fenced {
		f.Add("Fenced", "confirmed as fenced by an operator")
	}
	f.Add("Guarded", cli.YesNo(n.GuardRunning))
	f.Add("Cordoned", cordonText(n))
	f.Add("Labels", cli.LabelLines(n.Labels)...)
	f.Add("Pools", pools...)
	if n.Facts == nil {
		f.Add("Facts", "not reported yet")
		return f
	}
	factLines(f, *n.Facts, now)
	return f
}

// cordonText says whether a node is cordoned, and whether its data must leave it.
func cordonText(n api.Node) string {
	switch {
	case n.Drained:
		return "yes, and drained"
	case n.Draining:
		return "yes, and draining"
	}
	return cli.YesNo(n.Cordoned)
}

func factLines(f *cli.Form, facts dataset.Facts, now time.Time) {
	machine := facts.Architecture
	if facts.Virtual {
		machine += ", virtual"
	}
	f.Add("Facts", cli.When(now, facts.Taken)+", last change of 10 % or more")
	f.Add("Machine", fmt.Sprintf("%s, %d CPUs", machine, facts.CPUs))
	f.Add("Load", fmt.Sprintf("%s, %s, %s (1, 10 and 15 minutes)", loadLine(facts.Load1), loadLine(facts.Load10),
		loadLine(facts.Load15)))
	f.Add("Memory", fmt.Sprintf("%s, %s free", facts.MemoryTotal.Human(), facts.MemoryFree.Human()))
	f.Add("System", strings.TrimSpace(facts.OS+" "+facts.OSVersion)+", Linux "+facts.Kernel)
	f.Add("Engine", facts.Engine)
	f.Add("Backends", strings.Join(facts.Backends, ", "))
	var free []string
	for _, p := range facts.Pools {
		free = append(free, p.Name+" "+p.Free.Human())
	}
	f.Add("Free", free...)
}
