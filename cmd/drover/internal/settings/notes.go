package settings

import (
	"context"
	"fmt"
	"os"
	"slices"

	"github.com/droverhq/drover/cmd/drover/internal/cli"
	"github.com/droverhq/drover/dataset"
	"github.com/droverhq/drover/internal/keys"
)

// PrintNotes prints what an operator should know about valid profiles: which make backups, which need the guard, and
// the pools and keys that the profiles name but that do not exist.
func PrintNotes(ctx context.Context, a *cli.App, all []dataset.Profile) error {
	for _, p := range all {
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
	return printMissing(ctx, a, all)
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
