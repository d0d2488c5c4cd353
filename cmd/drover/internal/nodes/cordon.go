package nodes

import (
	"github.com/spf13/cobra"

	"github.com/droverhq/drover/cmd/drover/internal/cli"
	"github.com/droverhq/drover/control/api"
)

func newNodeCordonCmd(a *cli.App) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "cordon NODE",
		Short: "Place nothing new on a node; its volumes stay and work",
		Long: `Place nothing new on a node: no new volumes, no replicas, and no volumes that
move from other nodes. A volume that a container of the node requests is made on
another node, and cannot be mounted here. What the node has stays and works.

The node stays cordoned, also across restarts, until drover node uncordon. It
need not be reachable. If the node is being drained, the drain ends, and the
replicas that are left on the node stay.`,
		Example: "  drover node cordon host-a",
		Args:    cli.Args(1), ValidArgsFunction: cli.Complete(a, cli.NodeWords),
	}
	o := cli.OutputFlags(cmd, false)
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		return setCordon(cmd, a, o, args[0], true)
	}
	return cmd
}

func newNodeUncordonCmd(a *cli.App) *cobra.Command {
	cmd := &cobra.Command{
		Use:     "uncordon NODE",
		Short:   "End a cordon or a drain: new volumes may be placed on the node",
		Example: "  drover node uncordon host-a",
		Args:    cli.Args(1), ValidArgsFunction: cli.Complete(a, cli.NodeWords),
	}
	o := cli.OutputFlags(cmd, false)
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		return setCordon(cmd, a, o, args[0], false)
	}
	return cmd
}

// setCordon cordons a node, or ends its cordon, and prints what changed.
func setCordon(cmd *cobra.Command, a *cli.App, o *cli.Output, ref string, cordoned bool) error {
	c, n, _, err := findNode(cmd.Context(), a, ref)
	if err != nil {
		return err
	}
	set, err := c.Cordon(cmd.Context(), n.ID, api.Cordoned{Cordoned: cordoned})
	if err != nil {
		return err
	}
	switch {
	case o.JSON():
		return cli.JSON(a.Out, set)
	case !cordoned && n.Cordoned:
		return a.PrintLine("node %s is no longer cordoned", set.Name)
	case !cordoned:
		return a.PrintLine("node %s is not cordoned: nothing to do", set.Name)
	case n.Draining:
		return a.PrintLine("node %s is cordoned, and no longer draining", set.Name)
	case n.Cordoned:
		return a.PrintLine("node %s is already cordoned", set.Name)
	}
	return a.PrintLine("node %s is cordoned (drover node uncordon %s ends that)", set.Name, set.Name)
}
