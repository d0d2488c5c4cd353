package daemon

import (
	"errors"
	"os"
	"slices"

	"github.com/spf13/cobra"

	"github.com/droverhq/drover/cmd/drover/internal/cli"
	"github.com/droverhq/drover/cmd/drover/internal/settings"
	"github.com/droverhq/drover/internal/strictyaml"
)

// ConfigCommand makes drover config with its subcommand.
func ConfigCommand(a *cli.App) *cobra.Command {
	return cli.Group(&cobra.Command{
		Use:   "config",
		Short: "Check the configuration files",
	},
		newConfigCheckCmd(a),
	)
}

func newConfigCheckCmd(a *cli.App) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "check [FILE]",
		Short: "Check drover.yaml and profiles.yaml before a start",
		Long: `Check drover.yaml and profiles.yaml as drover serve reads them, and start
nothing. FILE is /etc/drover/drover.yaml if it is left out; control.yaml has the
same keys. All mistakes are listed with file, line and column. Disks, addresses
and certificates are not tried. drover profile check also shows the profiles.`,
		Example: `  drover config check
  drover config check drover.yaml --profiles profiles.yaml`,
		Args: cli.Args(0),
	}
	profiles := cmd.Flags().String("profiles", settings.DefaultProfiles,
		"profiles `FILE`; without a file at the default place, the built-in profiles are used")
	named := cmd.Flags().String("config", settings.DefaultConfig, "the same as the argument `FILE`")
	o := cli.OutputFlags(cmd, false)
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		file := *named
		if len(args) > 0 {
			if cmd.Flags().Changed("config") && args[0] != file {
				return cli.UsageError(cmd, "name one file, with --config or as the argument")
			}
			file = args[0]
		}
		checks := []checkedFile{
			checkFile(file, settings.DefaultConfig, settings.LoadConfig),
			checkFile(*profiles, settings.DefaultProfiles, settings.LoadProfiles),
		}
		if o.JSON() {
			return errors.Join(cli.JSONList(a.Out, checks), lastProblem(checks))
		}
		return printChecks(a, checks)
	}
	return cmd
}

// A checkedFile is a file of the configuration, and what is wrong with it.
type checkedFile struct {
	File     string   `json:"file"`
	Exists   bool     `json:"exists"` // if false, the default place has no file, and the defaults are used
	Mistakes []string `json:"mistakes"`
	mistakes []error
}

// checkFile reads a file as a process of Drover does.
func checkFile[T any](path, defaultPath string, read func(string) (T, error)) checkedFile {
	c := checkedFile{File: path, Exists: true, Mistakes: []string{}}
	if _, err := os.Stat(path); errors.Is(err, os.ErrNotExist) && path == defaultPath {
		c.Exists = false
	}
	if _, err := read(path); err != nil {
		c.mistakes = strictyaml.All(err)
	}
	for _, m := range c.mistakes {
		c.Mistakes = append(c.Mistakes, m.Error())
	}
	return c
}

// lastProblem returns an error about the last file with a mistake, or nil if there is none.
func lastProblem(checks []checkedFile) error {
	for _, c := range slices.Backward(checks) {
		if len(c.mistakes) > 0 {
			return c.mistakes[0]
		}
	}
	return nil
}

// printChecks prints a line about each file, and all mistakes.
func printChecks(a *cli.App, checks []checkedFile) error {
	var failed error
	for _, c := range checks {
		line := c.File + " is valid"
		switch {
		case len(c.mistakes) > 0:
			if failed != nil {
				cli.PrintError(a.ErrOut, failed)
			}
			failed = cli.PrintMistakes(a, c.File, c.mistakes)
			continue
		case !c.Exists:
			line = "there is no " + c.File + ": the defaults are used"
		}
		if err := a.PrintLine("%s", line); err != nil {
			return err
		}
	}
	return failed
}
