package nodes

import (
	"context"
	"strings"

	"github.com/spf13/cobra"

	"github.com/droverhq/drover/cmd/drover/internal/cli"
	"github.com/droverhq/drover/control/api"
)

func newNodeRmCmd(a *cli.App) *cobra.Command {
	var force bool
	cmd := &cobra.Command{
		Use:     "rm NODE",
		Aliases: []string{"remove", "delete"},
		Short:   "Remove a node from the cluster for good",
		Long: `Remove a node from the cluster for good. Its certificate is revoked, so it can
return only with a new token. The command is refused while the node is the home
of volumes: move them first (drover node drain). It is also refused while the
node has data that no other node has: a superseded copy, or the last complete
copy of a volume whose home is unreachable or cannot open it.

If the node is alive, has the only replica of a volume, or with --force, the
command shows the effect, and the name of the node must be typed to confirm it,
unless --yes is given.

Use --force for a host that an attacker may control: it revokes the certificate
although volumes have their home there. The node stays in the store until the
volumes have another home (drover volume move --force --fenced). Then repeat the
command to remove it. Containers on the host are not stopped. Volumes that it
uses but whose home is another node (access: many) count as in use until drover
node fence confirms that it is off. Its copies are removed from the store: the
command lists those that no other node has. Their data stays in its pools.`,
		Args: cli.Args(1), ValidArgsFunction: cli.Complete(a, cli.NodeWords),
	}
	cmd.Flags().BoolVar(&force, "force", false,
		"also if volumes have their home there, or if it has data that no other node has")
	o, yes := cli.OutputFlags(cmd, false), cli.AddFlag(cmd)
	cli.DryRunFlag(cmd, o)
	cmd.RunE = a.Connected(func(cmd *cobra.Command, c cli.Remote, args []string) error {
		n, err := removeNode(cmd.Context(), a, c, o, yes, args[0], force)
		if err != nil {
			return err
		}
		if o.JSON() {
			return cli.JSON(a.Out, n)
		}
		if o.DryRun {
			return a.PrintLine("dry run: would remove node %s: %s", n.Name, strings.Join(removalEffects(n), "; "))
		}
		for _, item := range n.Forgotten {
			if err := a.PrintLine("removed from the store: %s", item); err != nil {
				return err
			}
		}
		if len(n.Unprotected) > 0 {
			if err := a.PrintLine("no replica is left of %s until another node has made one (drover status)",
				strings.Join(n.Unprotected, ", ")); err != nil {
				return err
			}
		}
		return a.PrintLine("removed node %s: certificate revoked; the host can join again with another --root and "+
			"--node-name and a new token (drover node token --name NAME)", n.Name)
	})
	return cmd
}

// removeNode removes a node. It first asks for a confirmation if the node is alive, is the home of volumes, or has data
// or a replica that no other node has. The question follows a preview, so nobody is asked about a removal that is
// refused. After a preview it removes the node by its UUID, because another node may have got the name since.
func removeNode(ctx context.Context, a *cli.App, c cli.Remote, o *cli.Output, yes *cli.Flag, ref string,
	force bool) (api.RemovedNode, error) {
	if !yes.Given() || o.DryRun {
		n, err := c.RemoveNode(ctx, ref, api.NodeRemoval{Force: force, DryRun: true})
		if err != nil || o.DryRun {
			return n, err
		}
		if n.Live || len(n.Homes) > 0 || len(n.Forgotten) > 0 || len(n.Unprotected) > 0 {
			q := cli.Question{Action: "remove node " + n.Name, Effects: removalEffects(n), Name: n.Name}
			if err := yes.Ask(a, q); err != nil {
				return n, err
			}
		}
		ref = n.ID.String()
	}
	return c.RemoveNode(ctx, ref, api.NodeRemoval{Force: force})
}

// removalEffects says what the removal of a node does.
func removalEffects(n api.RemovedNode) []string {
	effects := []string{"its certificate is revoked for good, and only a new token lets it join again"}
	if n.Live {
		effects = append(effects, "the node is alive: its containers continue to run")
	}
	if len(n.Homes) > 0 {
		effects = append(effects, "volumes whose home it is cannot be used until they have another home: "+
			strings.Join(n.Homes, ", "))
	}
	if len(n.Unprotected) > 0 {
		effects = append(effects, "it has the only replica of these volumes, so that only their homes have their "+
			"data until another node has one: "+strings.Join(n.Unprotected, ", "))
	}
	for _, what := range n.Forgotten {
		effects = append(effects, "removed from the store, and no other node has it: "+what)
	}
	return effects
}
