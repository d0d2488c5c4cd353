package main

import (
	"os"

	"github.com/spf13/cobra"
	"github.com/spf13/cobra/doc"

	"github.com/droverhq/drover/cmd/drover/internal/cli"
)

func newManCmd(a *cli.App) *cobra.Command {
	return &cobra.Command{
		Use:    "man DIR",
		Short:  "Write the man pages into a folder",
		Hidden: true,
		Args:   cli.Args(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			info, err := os.Stat(args[0])
			if err != nil {
				return err
			}
			if !info.IsDir() {
				return cli.UsageError(cmd, "man: %s is not a folder", args[0])
			}
			return doc.GenManTree(cmd.Root(), &doc.GenManHeader{
				Section: "1", Source: "drover " + a.Version, Manual: "Drover",
			}, args[0])
		},
	}
}
