package main

import (
	"strconv"
	"strings"

	"github.com/google/uuid"
	"github.com/spf13/cobra"

	"github.com/droverhq/drover/cmd/drover/internal/show"
	"github.com/droverhq/drover/dataset"
)

func newNodeLsCmd(a *app) *cobra.Command {
	cmd := &cobra.Command{
		Use:               "ls",
		Short:             "List the nodes",
		Args:              args(0),
		ValidArgsFunction: cobra.NoFileCompletions,
	}
	o := outputFlags(cmd, true)
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		c, err := a.connect()
		if err != nil {
			return err
		}
		nodes, err := c.NodeList(cmd.Context())
		if err != nil {
			return err
		}
		return list(a, o, nodes, func(n dataset.Node) string { return n.ID.String() }, nodeTable)
	}
	return cmd
}

func nodeTable(nodes []dataset.Node) *show.Table {
	ids := make([]uuid.UUID, len(nodes))
	for i, n := range nodes {
		ids[i] = n.ID
	}
	short := show.Shorten(ids)
	t := show.NewTable("NAME", "NODE", "VERSION", "POOLS", "CORDONED", "LABELS")
	for _, n := range nodes {
		t.Row(n.Name, short(n.ID), n.Version, strconv.Itoa(len(n.Pools)), yesNo(n.Cordoned), strings.Join(labelLines(n.Labels), ","))
	}
	return t
}
