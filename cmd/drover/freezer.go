package main

import (
	"github.com/spf13/cobra"

	"github.com/droverhq/drover/cmd/drover/internal/cli"
	"github.com/droverhq/drover/internal/linux/freezer"
)

func newFreezerCmd() *cobra.Command {
	return &cobra.Command{
		Use:    "freezer",
		Short:  "Freeze a filesystem during a snapshot (used by the agent)",
		Hidden: true,
		Args:   cli.Args(0),
		Run:    func(*cobra.Command, []string) { freezer.Serve() },
	}
}
