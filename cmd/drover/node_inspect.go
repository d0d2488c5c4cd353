package main

import (
	"fmt"

	"github.com/google/uuid"
	"github.com/spf13/cobra"

	"github.com/droverhq/drover/cmd/drover/internal/show"
	"github.com/droverhq/drover/dataset"
)

func newNodeInspectCmd(a *app) *cobra.Command {
	cmd := &cobra.Command{
		Use:               "inspect NODE",
		Short:             "Show all about a node",
		Args:              args(1),
		ValidArgsFunction: complete(a, nodeWords),
	}
	o := outputFlags(cmd, false)
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		c, err := a.connect()
		if err != nil {
			return err
		}
		nodes, err := c.NodeList(cmd.Context())
		if err != nil {
			return err
		}
		n, err := pick(nodes, "node", args[0],
			func(n dataset.Node) string { return n.Name }, func(n dataset.Node) uuid.UUID { return n.ID })
		if err != nil {
			return err
		}
		if o.json() {
			return show.JSON(a.out, n)
		}
		pools, err := c.Pools(cmd.Context())
		if err != nil {
			return err
		}
		var lines []string
		for _, p := range pools {
			if p.Node == n.ID {
				lines = append(lines, fmt.Sprintf("%s (%s at %s, %s)", p.Name, p.Backend, p.Path, poolState(p)))
			}
		}
		return nodeForm(n, lines).Write(a.out)
	}
	return cmd
}

func nodeForm(n dataset.Node, pools []string) *show.Form {
	f := &show.Form{}
	f.Add("Node", n.Name)
	f.Add("ID", n.ID.String())
	f.Add("Version", n.Version)
	f.Add("Cordoned", yesNo(n.Cordoned))
	f.Add("Labels", labelLines(n.Labels)...)
	f.Add("Pools", pools...)
	return f
}
