package nodes

import (
	"context"

	"github.com/google/uuid"
	"github.com/spf13/cobra"

	"github.com/droverhq/drover/cmd/drover/internal/cli"
	"github.com/droverhq/drover/control/api"
)

// Command makes drover node with its subcommands.
func Command(a *cli.App) *cobra.Command {
	return cli.Group(&cobra.Command{
		Use:        "node",
		SuggestFor: []string{"host"},
		Short:      "Manage nodes",
	},
		newNodeLsCmd(a), newNodeInspectCmd(a), newNodeCordonCmd(a), newNodeLabelCmd(a),
		newNodeDrainCmd(a),
		newNodeFenceCmd(a), newNodeTokenCmd(a), newNodeRmCmd(a),
	)
}

// findNode connects to the server and finds a node by name or UUID. It also returns all nodes.
func findNode(ctx context.Context, a *cli.App, ref string) (c cli.Remote, n api.Node, all []api.Node, err error) {
	if c, err = a.Connect(); err != nil {
		return c, n, nil, err
	}
	if all, err = c.NodeList(ctx, ""); err != nil {
		return c, n, nil, err
	}
	n, err = cli.Find(all, "node", ref, func(n api.Node) string { return n.Name },
		func(n api.Node) uuid.UUID { return n.ID })
	return c, n, all, err
}
