package nodes

import (
	"github.com/spf13/cobra"

	"github.com/droverhq/drover/cmd/drover/internal/cli"
	"github.com/droverhq/drover/cmd/drover/internal/show"
	"github.com/droverhq/drover/control/api"
	"github.com/droverhq/drover/dataset"
)

func newNodeFenceCmd(a *cli.App) *cobra.Command {
	var confirmed bool
	cmd := &cobra.Command{
		Use:   "fence NODE",
		Short: "Confirm that a node is fenced",
		Long: `Confirm that an unreachable node is fenced: it is off, or cut off for good, and
writes no more. The command does nothing to the node, so switch it off first.
Its volumes with failover auto then continue from their copies when they are
mounted elsewhere. The node no longer counts towards a mass loss, which halts
failover. The command is refused while the node is alive. The confirmation ends
when the node returns.`,
		Args: cli.Args(1), ValidArgsFunction: cli.Complete(a, cli.NodeWords),
	}
	cmd.Flags().BoolVar(&confirmed, "confirmed", false, "confirm that the node is off, or cut off for good")
	o := cli.OutputFlags(cmd, false)
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		if !confirmed {
			return dataset.Errorf(dataset.ErrInvalid,
				"fence node %s: its volumes may then be opened elsewhere: repeat with --confirmed once it is "+
					"off, or cut off for good", args[0])
		}
		c, n, _, err := findNode(cmd.Context(), a, args[0])
		if err != nil {
			return err
		}
		set, err := c.Fence(cmd.Context(), n.ID, api.Fenced{Confirmed: true})
		if err != nil {
			return err
		}
		if o.JSON() {
			return show.JSON(a.Out, set)
		}
		return a.PrintLine("node %s is confirmed as fenced until it returns", set.Name)
	}
	return cmd
}
