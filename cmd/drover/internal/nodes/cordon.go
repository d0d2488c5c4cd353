package nodes

import (
	"github.com/spf13/cobra"

	"github.com/droverhq/drover/cmd/drover/internal/cli"
	"github.com/droverhq/drover/cmd/drover/internal/show"
	"github.com/droverhq/drover/control/api"
)

func newNodeCordonCmd(a *cli.App) *cobra.Command {
	var off bool
	cmd := &cobra.Command{
		Use:   "cordon NODE",
		Short: "Place nothing new on a node; its volumes stay and work",
		Args:  cli.Args(1), ValidArgsFunction: cli.Complete(a, cli.NodeWords),
	}
	cmd.Flags().BoolVar(&off, "off", false, "lift the cordon")
	o := cli.OutputFlags(cmd, false)
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		c, n, _, err := findNode(cmd.Context(), a, args[0])
		if err != nil {
			return err
		}
		set, err := c.Cordon(cmd.Context(), n.ID, api.Cordoned{Cordoned: !off})
		if err != nil {
			return err
		}
		switch {
		case o.JSON():
			return show.JSON(a.Out, set)
		case off && n.Cordoned:
			return a.PrintLine("node %s is no longer cordoned", set.Name)
		case off:
			return a.PrintLine("node %s is not cordoned: nothing to do", set.Name)
		case n.Cordoned:
			return a.PrintLine("node %s is already cordoned", set.Name)
		}
		return a.PrintLine("node %s is cordoned", set.Name)
	}
	return cmd
}
