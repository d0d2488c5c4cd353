package main

import (
	"os"

	"github.com/spf13/cobra"
	"github.com/spf13/cobra/doc"
)

func newManCmd(a *app) *cobra.Command {
	return &cobra.Command{
		Use:    "man DIR",
		Short:  "Write the man pages into a folder",
		Hidden: true,
		Args:   args(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			info, err := os.Stat(args[0])
			if err != nil {
				return err
			}
			if !info.IsDir() {
				return usage(cmd, "%s is no folder", args[0])
			}
			return doc.GenManTree(cmd.Root(), &doc.GenManHeader{
				Section: "1", Source: "drover " + a.version, Manual: "Drover",
			}, args[0])
		},
	}
}
