package main

import (
	"context"
	"strconv"
	"strings"

	"github.com/google/uuid"
	"github.com/spf13/cobra"

	"github.com/droverhq/drover/cmd/drover/internal/show"
	"github.com/droverhq/drover/dataset"
)

func newNodeLsCmd(a *app) *cobra.Command {
	return newLsCmd(a, listing[dataset.Node]{
		short: "List the nodes",
		fetch: func(ctx context.Context, c remote) ([]dataset.Node, error) { return c.NodeList(ctx) },
		id:    func(n dataset.Node) string { return n.ID.String() },
		table: nodeTable,
	})
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
