package nodes

import (
	"fmt"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/droverhq/drover/cmd/drover/internal/cli"
	"github.com/droverhq/drover/cmd/drover/internal/pools"
	"github.com/droverhq/drover/cmd/drover/internal/show"
	"github.com/droverhq/drover/control/api"
	"github.com/droverhq/drover/dataset"
)

func newNodeInspectCmd(a *cli.App) *cobra.Command {
	cmd := &cobra.Command{
		Use:               "inspect NODE",
		Short:             "Show a node in detail",
		Args:              cli.Args(1),
		ValidArgsFunction: cli.Complete(a, cli.NodeWords),
	}
	o := cli.OutputFlags(cmd, false)
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		c, n, _, err := findNode(cmd.Context(), a, args[0])
		if err != nil {
			return err
		}
		if o.JSON() {
			return show.JSON(a.Out, n)
		}
		list, err := c.Pools(cmd.Context())
		if err != nil {
			return err
		}
		var lines []string
		for _, p := range list {
			if p.Node == n.ID {
				state := pools.State(p)
				if state == pools.HeldState {
					state += ": " + p.Status.Reason
				}
				lines = append(lines, fmt.Sprintf("%s (%s at %s, %s)", p.Name, p.Backend, p.Path, state))
			}
		}
		return nodeForm(n, lines, a.Now()).Write(a.Out)
	}
	return cmd
}

func nodeForm(n api.Node, pools []string, now time.Time) *show.Form {
	f := &show.Form{}
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
	if n.Draining {
		return "yes, and draining"
	}
	return cli.YesNo(n.Cordoned)
}

func factLines(f *show.Form, facts dataset.Facts, now time.Time) {
	machine := facts.Architecture
	if facts.Virtual {
		machine += ", virtual"
	}
	f.Add("Facts", show.When(now, facts.Taken)+", last change of 10 % or more")
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
