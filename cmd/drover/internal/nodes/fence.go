package nodes

import (
	"github.com/spf13/cobra"

	"github.com/droverhq/drover/cmd/drover/internal/cli"
	"github.com/droverhq/drover/control/api"
)

func newNodeFenceCmd(a *cli.App) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "fence NODE",
		Short: "Confirm that a node is fenced",
		Long: `Confirm that an unreachable node is fenced: it is off, or cut off for good, and
writes no more. The command does nothing to the node, so switch it off first.
Its volumes with failover auto then continue from their copies when they are
mounted elsewhere. The node no longer counts towards a mass loss, which halts
failover. The command is refused while the node is alive. The confirmation ends
when the node returns. The name of the node must be typed to confirm it, unless
--yes is given.`,
		Args: cli.Args(1), ValidArgsFunction: cli.Complete(a, cli.NodeWords),
	}
	yes := cli.AddFlag(cmd)
	o := cli.OutputFlags(cmd, false)
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		c, n, _, err := findNode(cmd.Context(), a, args[0])
		if err != nil {
			return err
		}
		if err := yes.Ask(a, cli.Question{
			Action: "fence node " + n.Name,
			Effects: []string{
				"its volumes may then be opened on other nodes: if the node still writes, data is lost",
				"you confirm that it is off, or cut off for good",
			},
			Name: n.Name,
		}); err != nil {
			return err
		}
		set, err := c.Fence(cmd.Context(), n.ID, api.Fenced{Confirmed: true})
		if err != nil {
			return err
		}
		if o.JSON() {
			return cli.JSON(a.Out, set)
		}
		return a.PrintLine("node %s is confirmed as fenced until it returns", set.Name)
	}
	return cmd
}
