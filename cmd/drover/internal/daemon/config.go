package daemon

import (
	"cmp"
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
same keys. All mistakes are listed with file, line and column, including
settings of a profile that no backend can satisfy. Disks, addresses and
certificates are not tried. If a server responds, pools that no node has are
listed, and for root also the key files that are missing on this host. Whether
the existing pools satisfy a profile is checked when a volume is created.`,
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
		_, config := checkFile(file, settings.DefaultConfig, settings.LoadConfig)
		set, ofProfiles := checkFile(*profiles, settings.DefaultProfiles, settings.LoadProfiles)
		checks := []checkedFile{config, ofProfiles}
		if o.JSON() {
			return errors.Join(cli.JSONList(a.Out, checks), lastProblem(checks))
		}
		failed := printChecks(a, checks)
		if len(ofProfiles.mistakes) == 0 {
			return cmp.Or(settings.PrintNotes(cmd.Context(), a, set.All()), failed)
		}
		return failed
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

// checkFile reads a file as a process of Drover does. It returns the content of a valid file.
func checkFile[T any](path, defaultPath string, read func(string) (T, error)) (T, checkedFile) {
	c := checkedFile{File: path, Exists: true, Mistakes: []string{}}
	if _, err := os.Stat(path); errors.Is(err, os.ErrNotExist) && path == defaultPath {
		c.Exists = false
	}
	out, err := read(path)
	if err != nil {
		c.mistakes = strictyaml.All(err)
	}
	for _, m := range c.mistakes {
		c.Mistakes = append(c.Mistakes, m.Error())
	}
	return out, c
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
