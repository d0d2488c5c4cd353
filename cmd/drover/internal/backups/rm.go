package backups

import (
	"github.com/spf13/cobra"

	"github.com/droverhq/drover/cmd/drover/internal/cli"
	"github.com/droverhq/drover/dataset"
)

func newRmCmd(a *cli.App) *cobra.Command {
	cmd := &cobra.Command{
		Use:        "rm BACKUP",
		Aliases:    []string{"remove", "delete"},
		SuggestFor: []string{"forget"},
		Short:      "Remove a backup from its repository",
		Long: `Remove a backup from its repository. ` + referenceHelp + `
The data that no other backup needs stays in the repository until
drover backup prune frees the space.

The first 8 digits of the ID must be typed to confirm the command, unless --yes
is given.`,
		Example: `  drover backup rm 5f1c09aa`,
		Args:    cli.Args(1), ValidArgsFunction: cobra.NoFileCompletions,
	}
	o, yes := cli.OutputFlags(cmd, false), cli.AddFlag(cmd)
	cli.DryRunFlag(cmd, o)
	repository := cmd.Flags().String("repository", "", "look only in the `REPOSITORY`")
	cmd.RunE = a.Connected(func(cmd *cobra.Command, c cli.Remote, args []string) error {
		ctx := cmd.Context()
		b, err := findForRemoval(ctx, c, *repository, args[0])
		if err != nil {
			return err
		}
		taken := cli.When(a.Now(), b.Taken)
		format := "removed backup %s of volume %s, taken %s, from %s (drover backup prune frees its space)"
		if o.DryRun {
			format = "dry run: would remove backup %s of volume %s, taken %s, from %s"
		} else {
			err := yes.Ask(a, cli.Question{
				Action: "remove backup " + short(b.ID), Name: short(b.ID),
				Effects: []string{"removes the backup of volume " + b.Volume + ", taken " + taken +
					", from repository " + b.Repository + " for good"},
			})
			if err != nil {
				return err
			}
			if err := c.RemoveBackup(ctx, b.Repository, b.ID); err != nil {
				return err
			}
		}
		if o.JSON() {
			return cli.JSON(a.Out, b)
		}
		return a.PrintLine(format, short(b.ID), b.Volume, taken, b.Repository)
	})
	return cmd
}

// pruned is the JSON output of prune.
type pruned struct {
	Repository string `json:"repository"`
}

func newPruneCmd(a *cli.App) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "prune",
		Short: "Free the space of removed backups in a repository",
		Long: `Free the space of removed backups: remove the data that no backup in a
repository needs. No backup is removed. drover backup rm removes one backup, and
scheduled backups are removed as keep in the profile says (drover profile show).

The server's host does it, at idle I/O priority. It can take hours. Ctrl-C ends
it without harm.

restic has the repository for itself meanwhile: it refuses backups to it.`,
		Example: `  drover backup prune --repository offsite`,
		Args:    cli.Args(0), ValidArgsFunction: cobra.NoFileCompletions,
	}
	o := cli.OutputFlags(cmd, false)
	repository := cmd.Flags().String("repository", "", "prune the `REPOSITORY`; needed if several are recorded")
	cmd.RunE = a.Connected(func(cmd *cobra.Command, c cli.Remote, _ []string) error {
		ctx := cmd.Context()
		name := *repository
		if name == "" {
			list, err := c.Repositories(ctx)
			switch {
			case err != nil:
				return err
			case len(list) == 0:
				return dataset.Errorf(dataset.ErrNotFound, "no repository is recorded (drover repository add adds one)")
			case len(list) > 1:
				return cli.UsageError(cmd, "missing flag: --repository NAME, because several are recorded")
			}
			name = list[0].Name
		}
		if err := c.PruneRepository(ctx, name); err != nil {
			return err
		}
		if o.JSON() {
			return cli.JSON(a.Out, pruned{name})
		}
		return a.PrintLine("pruned repository %s", name)
	})
	return cmd
}
