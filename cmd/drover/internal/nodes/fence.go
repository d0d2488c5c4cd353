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
		Short: "Vouch that a node which is away writes no more",
		Long: `Vouch that a node which is away writes no more: that it is off, or cut off for
good. Nothing is done to it; switch it off first. Its volumes with failover auto
then go on from their copies as soon as somebody mounts them, and it does not
count among those that vanished together, which halts failover. Refused while
the node is alive; over when it is back.`,
		Args: cli.Args(1), ValidArgsFunction: cli.Complete(a, cli.NodeWords),
	}
	cmd.Flags().BoolVar(&confirmed, "confirmed", false, "it is off, or cut off for good")
	o := cli.OutputFlags(cmd, false)
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		if !confirmed {
			return dataset.Errorf(dataset.ErrInvalid,
				"fence of node %s: say --confirmed once it is off, or cut off for good: its volumes may be "+
					"opened elsewhere then", args[0])
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
		return a.Say("node %s is taken to write no more, until it is back", set.Name)
	}
	return cmd
}
