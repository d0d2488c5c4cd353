package main

import (
	"errors"
	"fmt"
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
			if err := addFiles(filepath.Join(args[0], "drover.1")); err != nil {
				return err
			}
			return writeFilePages(args[0], a.Version)
		},
	}
}

// addFiles appends the configuration files, and the man pages about them, to a man page.
func addFiles(page string) error {
	f, err := os.OpenFile(page, os.O_WRONLY|os.O_APPEND, 0)
	if err != nil {
		return err
	}
	text := ".SH FILES\n"
	for _, p := range settings.ReferencePages() {
		text += fmt.Sprintf(".TP\n.I /etc/drover/%s\nSee\n.BR %s (5).\n", p.File, p.ManName())
	}
	_, err = f.WriteString(text)
	return errors.Join(err, f.Close())
}

// writeFilePages writes the man pages about the configuration files. The page about profiles.yaml has another name than
// the file (see reference.Page.ManName), so writeFilePages also writes a page with the name of the file, which includes
// the first one.
func writeFilePages(dir, version string) error {
	for _, p := range settings.ReferencePages() {
		text, err := p.Man(version)
		if err != nil {
			return err
		}
		if err := os.WriteFile(filepath.Join(dir, p.ManName()+".5"), []byte(text), 0o644); err != nil {
			return err
		}
		if p.ManName() == p.File {
			continue
		}
		link := ".so man5/" + p.ManName() + ".5\n"
		if err := os.WriteFile(filepath.Join(dir, p.File+".5"), []byte(link), 0o644); err != nil {
			return err
		}
	}
	return nil
}
