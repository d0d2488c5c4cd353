package main

import (
	"os"
	"path/filepath"

	"github.com/spf13/cobra"
	"github.com/spf13/cobra/doc"

	"github.com/droverhq/drover/cmd/drover/internal/cli"
	"github.com/droverhq/drover/cmd/drover/internal/settings"
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
			if err := doc.GenManTree(cmd.Root(), &doc.GenManHeader{
				Section: "1", Source: "drover " + a.Version, Manual: "Drover",
			}, args[0]); err != nil {
				return err
			}
			for _, p := range settings.ReferencePages() {
				text, err := p.Man(a.Version)
				if err != nil {
					return err
				}
				if err := os.WriteFile(filepath.Join(args[0], p.File+".5"), []byte(text), 0o644); err != nil {
					return err
				}
			}
			return nil
		},
	}
}
