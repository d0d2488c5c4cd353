package nodes

import (
	"github.com/spf13/cobra"

	"github.com/droverhq/drover/cmd/drover/internal/cli"
	"github.com/droverhq/drover/control/api"
)

func newNodeCordonCmd(a *cli.App) *cobra.Command {
	cmd := &cobra.Command{
		Use:        "cordon NODE",
		SuggestFor: []string{"uncordon"},
		Short:      "Place nothing new on a node, or end that",
		Long: `Place nothing new on a node: no new volumes, no replicas, and no volumes that
move from other nodes. A volume that a container of the node requests is made on
another node, and cannot be mounted here. What the node has stays and works.

The node stays cordoned, also across restarts, until --off ends it. --off also
ends a drain. The node need not be reachable. Without --off, a drain ends, too,
but the node stays cordoned. The replicas that are left on the node stay.`,
		Example: `  drover node cordon host-a
  drover node cordon host-a --off`,
		Args: cli.Args(1), ValidArgsFunction: cli.Complete(a, cli.NodeWords),
	}
	o := cli.OutputFlags(cmd, false)
	off := cmd.Flags().Bool("off", false, "allow new volumes on the node again; this also ends a drain")
	cmd.RunE = func(cmd *cobra.Command, args []string) error { return setCordon(cmd, a, o, args[0], !*off) }
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
	return a.PrintLine("node %s is cordoned (drover node cordon --off %s ends that)", set.Name, set.Name)
}
