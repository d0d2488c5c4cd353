package settings

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"

	"github.com/spf13/cobra"

	"github.com/droverhq/drover/cmd/drover/internal/cli"
	"github.com/droverhq/drover/control/api"
	"github.com/droverhq/drover/dataset"
	"github.com/droverhq/drover/internal/keys"
	"github.com/droverhq/drover/internal/strictyaml"
	"github.com/droverhq/drover/profiles"
)

func newProfileCheckCmd(a *cli.App) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "check [FILE]",
		Short: "Check a profiles file before the server reads it",
		Long: `Check a profiles file before the server reads it, and show the profiles. FILE
is /etc/drover/profiles.yaml if it is left out. All mistakes are listed with
file, line and column, including settings that no backend can satisfy. If a
server responds, pools that no node has are listed, and for root also the key
files that are missing on this host. Whether the existing pools satisfy a
profile is checked when a volume is created.`,
		Args: cli.Args(0),
	}
	o := cli.OutputFlags(cmd, false)
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		file := DefaultProfiles
		if len(args) > 0 {
			file = args[0]
		}
		src, err := os.ReadFile(file)
		if len(args) == 0 && errors.Is(err, os.ErrNotExist) {
			return dataset.Errorf(dataset.ErrNotFound, "there is no %s: the built-in profiles are used (to check "+
				"another file, name it)", file)
		}
		if err != nil {
			return err
		}
		set, err := profiles.Parse(file, src, ProfileCheck(Backends()))
		if err != nil {
			return cli.PrintMistakes(a, file, strictyaml.All(err))
		}
		list := api.ListedProfiles(set.All(), set.Default())
		if o.JSON() {
			return cli.JSONList(a.Out, list)
		}
		if err := a.PrintLine("%s is valid; the default is %s", file, set.Default()); err != nil {
			return err
		}
		for _, p := range set.All() {
			if p.Backup.To != "" {
				if err := a.PrintLine("profile %s makes backups %s", p.Name, backupLine(p.Backup)); err != nil {
					return err
				}
			}
			if p.Failover.Auto {
				if err := a.PrintLine("profile %s fails over: each node with its volumes or replicas needs the guard "+
					"(systemctl enable --now drover-guard)", p.Name); err != nil {
					return err
				}
			}
		}
		if err := printMissing(cmd.Context(), a, set.All()); err != nil {
			return err
		}
		return Table(list).Write(a.Out)
	}
	return cmd
}

// printMissing prints the pools and keys that the profiles name but that do not exist. They are not an error, because a
// file may be checked on another host, or before the pools and keys are created.
func printMissing(ctx context.Context, a *cli.App, all []dataset.Profile) error {
	var pools []string
	var offline error
	if slices.ContainsFunc(all, func(p dataset.Profile) bool { return p.Pool != "" }) {
		pools, offline = poolNames(ctx, a)
	}
	for _, p := range all {
		if at := p.Encryption.KeyFile; at != "" {
			if err := a.CheckKey(at); err != nil {
				if err := a.PrintLine("profile %s cannot create volumes on this host yet: %v", p.Name,
					err); err != nil {
					return err
				}
			}
		}
		if p.Pool == "" || slices.Contains(pools, p.Pool) {
			continue
		}
		problem := fmt.Sprintf("which no node has (available: %s)%s", dataset.FormatChoices(pools),
			dataset.Suggestion(p.Pool, pools))
		if offline != nil {
			problem = fmt.Sprintf("which could not be checked: %v", offline)
		}
		if err := a.PrintLine("profile %s names pool %s, %s", p.Name, p.Pool, problem); err != nil {
			return err
		}
	}
	return nil
}

// CheckKey fails if the key file at path cannot be used. It is the value of App.CheckKey in the program. If the caller
// is not root, it checks nothing and returns nil.
func CheckKey(path string) error {
	if os.Geteuid() != 0 {
		return nil
	}
	_, err := keys.ReadFile(path)
	return err
}

func poolNames(ctx context.Context, a *cli.App) ([]string, error) {
	c, err := a.Connect()
	if err != nil {
		return nil, err
	}
	pools, err := c.Pools(ctx)
	var names []string
	for _, p := range pools {
		names = append(names, p.Name)
	}
	return slices.Compact(slices.Sorted(slices.Values(names))), err
}
