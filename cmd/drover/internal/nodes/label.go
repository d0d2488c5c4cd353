package nodes

import (
	"strings"

	"github.com/spf13/cobra"

	"github.com/droverhq/drover/cmd/drover/internal/cli"
)

func newNodeLabelCmd(a *cli.App) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "label NODE KEY=VALUE [KEY=VALUE...]",
		Short: "Set and remove labels of a node",
		Long: `Set and remove labels of a node, which placement expressions can use, such as
labels.rack == "r1". KEY=VALUE sets a label, or replaces its value. KEY- removes
it. The node need not be reachable.

A label that this command sets replaces the label with the same key in
drover.yaml, also after a restart of the node. KEY- removes the new label, and
the label in drover.yaml applies again. A label that is only in drover.yaml can
only be removed there. Existing volumes stay where they are.`,
		Example:           "  drover node label host-a rack=r1 spare-",
		Args:              cli.Args(2),
		ValidArgsFunction: cli.Complete(a, cli.NodeWords),
	}
	o := cli.OutputFlags(cmd, false)
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		change, err := cli.ParseLabelChange(cmd, args[1:])
		if err != nil {
			return err
		}
		c, n, _, err := findNode(cmd.Context(), a, args[0])
		if err != nil {
			return err
		}
		set, err := c.LabelNode(cmd.Context(), n.ID, change)
		if err != nil {
			return err
		}
		if o.JSON() {
			return cli.JSON(a.Out, set)
		}
		if labels := strings.Join(cli.LabelLines(set.Labels), ", "); labels != "" {
			return a.PrintLine("node %s has the labels %s", set.Name, labels)
		}
		return a.PrintLine("node %s has no labels", set.Name)
	}
	return cmd
}
