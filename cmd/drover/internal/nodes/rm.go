package nodes

import (
	"github.com/spf13/cobra"

	"github.com/droverhq/drover/cmd/drover/internal/cli"
	"github.com/droverhq/drover/cmd/drover/internal/show"
)

func newNodeRmCmd(a *cli.App) *cobra.Command {
	var force bool
	cmd := &cobra.Command{
		Use:   "rm NODE",
		Short: "Remove a node from the cluster for good",
		Long: `Remove a node from the cluster for good: its certificate is worth nothing from
then on, and it cannot come back as what it was. Refused while volumes have
their home there; move them first (drover node drain). Refused, too, while it
keeps what nobody else has: a head that was overtaken, or the last whole copy of
a volume whose home is away or cannot open it.

With --force the certificate is worth nothing although volumes have their home
there, for a host that somebody else may have. The node stays on record until
they have another home (drover volume move --force --fenced), and is removed by
saying this again. Containers that run there are not stopped by it: volumes that
it uses and whose home is elsewhere (access: many) count as in use there until
drover node fence says that it is off. What it kept is forgotten: the command
says what nobody else has, and it lies in its pools.`,
		Args: cli.Args(1), ValidArgsFunction: cli.Complete(a, cli.NodeWords),
	}
	cmd.Flags().BoolVar(&force, "force", false,
		"also while volumes have their home there, or it keeps what nobody else has")
	o := cli.OutputFlags(cmd, false)
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		c, err := a.Connect()
		if err != nil {
			return err
		}
		n, err := c.RemoveNode(cmd.Context(), args[0], force)
		if err != nil {
			return err
		}
		if o.JSON() {
			return show.JSON(a.Out, n)
		}
		for _, what := range n.Forgotten {
			if err := a.Say("forgotten: %s", what); err != nil {
				return err
			}
		}
		return a.Say("node %s is removed: its certificate is worth nothing any more", n.Name)
	}
	return cmd
}
