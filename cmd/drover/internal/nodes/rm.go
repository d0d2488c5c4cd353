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
		Long: `Remove a node from the cluster for good. Its certificate is revoked, so it can
return only with a new token. The command is refused while the node is the home
of volumes: move them first (drover node drain). It is also refused while the
node has data that no other node has: a superseded copy, or the last complete
copy of a volume whose home is unreachable or cannot open it.

With --force the certificate is revoked although volumes have their home there,
for a host that an attacker may control. The node stays in the store until the
volumes have another home (drover volume move --force --fenced). Then repeat the
command to remove it. Containers on the host are not stopped. Volumes that it
uses but whose home is another node (access: many) count as in use until drover
node fence confirms that it is off. Its copies are removed from the store: the
command lists those that no other node has. Their data stays in its pools.`,
		Args: cli.Args(1), ValidArgsFunction: cli.Complete(a, cli.NodeWords),
	}
	cmd.Flags().BoolVar(&force, "force", false,
		"also if volumes have their home there, or if it has data that no other node has")
	o := cli.OutputFlags(cmd, false)
	cmd.RunE = a.Connected(func(cmd *cobra.Command, c cli.Remote, args []string) error {
		n, err := c.RemoveNode(cmd.Context(), args[0], force)
		if err != nil {
			return err
		}
		if o.JSON() {
			return show.JSON(a.Out, n)
		}
		for _, item := range n.Forgotten {
			if err := a.PrintLine("removed from the store: %s", item); err != nil {
				return err
			}
		}
		return a.PrintLine("removed node %s: certificate revoked", n.Name)
	})
	return cmd
}
