package backups

import (
	"context"
	"strings"

	"github.com/spf13/cobra"

	"github.com/droverhq/drover/cmd/drover/internal/cli"
	"github.com/droverhq/drover/control/api"
	"github.com/droverhq/drover/dataset"
)

func newRepositoryRmCmd(a *cli.App) *cobra.Command {
	cmd := &cobra.Command{
		Use:     "rm NAME",
		Aliases: []string{"remove", "delete"},
		Short:   "Remove the record of a repository",
		Long: `Remove the record of a repository. The data in the repository stays, and so do
the files with its password: drover repository add adds it again.

While the profile of a volume has it backed up to the repository, the command is
refused. With --force, the record is removed, and these backups fail.

The name of the repository must be typed to confirm the command, unless --yes is
given.`,
		Args: cli.Args(1), ValidArgsFunction: cli.Complete(a, cli.RepositoryWords),
	}
	o, yes := cli.OutputFlags(cmd, false), cli.AddFlag(cmd)
	cli.DryRunFlag(cmd, o)
	force := cmd.Flags().Bool("force", false, "also if scheduled backups use it")
	cmd.RunE = a.Connected(func(cmd *cobra.Command, c cli.Remote, args []string) error {
		ctx := cmd.Context()
		r, err := c.Repository(ctx, args[0])
		place := "at " + r.URL
		// A damaged record can only be removed. For an unknown name, the server reads all records to suggest a name, so
		// ErrCorrupt can also be about another record: the error must name this one.
		if dataset.KindOf(err) == dataset.ErrCorrupt && strings.Contains(err.Error(), " repositories/"+args[0]+" ") {
			r, place, err = dataset.Repository{Name: args[0]}, "where it is", nil
		}
		if err != nil {
			return err
		}
		format := "removed repository %s: its data stays %s"
		if o.DryRun {
			if !*force {
				if err := checkUnused(ctx, c, r.Name); err != nil {
					return err
				}
			}
			format = "dry run: would remove repository %s: its data stays %s"
		} else {
			err := yes.Ask(a, cli.Question{
				Action: "remove repository " + r.Name, Name: r.Name,
				Effects: []string{"removes the record of the repository; its data stays " + place},
			})
			if err != nil {
				return err
			}
			if err := c.RemoveRepository(ctx, r.Name, *force); err != nil {
				return err
			}
		}
		if o.JSON() {
			return cli.JSON(a.Out, r)
		}
		return a.PrintLine(format, r.Name, place)
	})
	return cmd
}

// checkUnused fails with dataset.ErrInUse if the server would refuse to remove a repository without force: if the
// profile of a volume, also of one in the trash, schedules backups to it.
func checkUnused(ctx context.Context, c cli.Remote, repository string) error {
	live, err := cli.FetchAll(ctx, c.Volumes)
	if err != nil {
		return err
	}
	trashed, err := cli.FetchAll(ctx, c.Trash)
	if err != nil {
		return err
	}
	users := func(volumes []api.Volume) (names []string) {
		for _, v := range volumes {
			if v.Profile.Backup.To == repository {
				names = append(names, v.Volume)
			}
		}
		return names
	}
	if names := users(live); len(names) > 0 {
		return dataset.Errorf(dataset.ErrInUse, "repository %s would not be removed: volumes are backed up to it on "+
			"schedule: %s (give them another profile: drover volume set-profile)", repository,
			dataset.FormatChoices(names))
	}
	if names := users(trashed); len(names) > 0 {
		return dataset.Errorf(dataset.ErrInUse, "repository %s would not be removed: volumes in the trash would be "+
			"backed up to it once they are restored: %s (drover trash ls; or use --force)", repository,
			dataset.FormatChoices(names))
	}
	return nil
}
