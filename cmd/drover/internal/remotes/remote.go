// Package remotes has the commands of drover remote, and drover push and drover pull. Package main adds them to the
// command tree. Each recorded repository is a remote, so package repositories has the commands that add and remove
// remotes. A pull restores a backup, so package backups makes its request. The commands call the API, and keep no
// state. The agents read and write the history of a remote.
//
// File remote.go has drover remote, push.go drover push, and pull.go drover pull. File version.go parses names of
// versions, and makes the errors about them.
package remotes

import (
	"context"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/droverhq/drover/cmd/drover/internal/cli"
	"github.com/droverhq/drover/cmd/drover/internal/listing"
	"github.com/droverhq/drover/cmd/drover/internal/repositories"
	"github.com/droverhq/drover/cmd/drover/internal/show"
	"github.com/droverhq/drover/dataset"
)

// Command makes drover remote with its subcommands.
func Command(a *cli.App) *cobra.Command {
	add, rm := repositories.AddCommand(a), repositories.RemoveCommand(a)
	add.Short = "Add a repository, to push volumes to it and pull them"
	add.Example = `  drover remote add offsite /mnt/nas/backups \
    --password file:/etc/drover/offsite.pass
  drover remote add theirs rest:https://nas.example.com/ann \
    --password file:/etc/drover/theirs.pass \
    --credentials-file /etc/drover/theirs.rest`
	rm.Short = "Remove the record of a remote"
	return cli.Group(&cobra.Command{
		Use:   "remote",
		Short: "Manage the remotes to which volumes are pushed",
	}, add, newLsCmd(a), rm)
}

func newLsCmd(a *cli.App) *cobra.Command {
	var incomplete error // why the list lacks versions
	id := func(v dataset.PushedVersion) string { return v.ID.String() }
	cmd := listing.New(a, listing.List[dataset.PushedVersion]{
		Use:   "ls [REMOTE]",
		Short: "List the remotes, or the versions in one of them",
		Long: `List the remotes or, with REMOTE, the versions of volumes in a remote, in the
order in which they were pushed: of all names, or of one name with REMOTE/NAME.
The server's host reads the list from the remote. Versions that other clusters
pushed are listed, too. BY and NODE are who pushed a version, and where.

A version is newest if no other version of its name continues it. Two newest
versions of a name mean that both sides have changed. If the data of a version
was removed with drover backup rm, the version is listed as removed. If a
version cannot be read, the others are listed, and the command fails.`,
		ValidArgs: cli.Complete(a, cli.RepositoryWords),
		FetchMatching: func(cmd *cobra.Command, q listing.Query) ([]dataset.PushedVersion, error) {
			remote, name, err := parseRemote(q.Args[0])
			if err != nil {
				return nil, err
			}
			c, err := a.Connect()
			if err != nil {
				return nil, err
			}
			list, err := c.Versions(cmd.Context(), remote, name)
			incomplete = list.Problem.Err()
			return list.Items, err
		},
		WatchPause: 30 * time.Second, // restic reads the remote for every list

		ID:      id,
		Compare: func(x, y dataset.PushedVersion) int { return x.Pushed.Compare(y.Pushed) },
		Moment: &listing.Moment[dataset.PushedVersion]{
			Of: func(v dataset.PushedVersion) time.Time { return v.Pushed }, Verb: "pushed",
		},
		Table: func(list []dataset.PushedVersion) *show.Table {
			t := show.NewTable("VERSION", "NAME", "PUSHED", "BY", "NODE", "STATE")
			for _, v := range list {
				t.Row(short(v.ID), cli.ShortName(v.Name), show.Ago(a.Now(), v.Pushed), v.By, v.Node, state(v))
			}
			return t
		},
		Wide: []listing.Column[dataset.PushedVersion]{
			{Header: "PARENT", Cell: func(v dataset.PushedVersion) string { return short(v.Parent) }},
			{Header: "VOLUME", Cell: func(v dataset.PushedVersion) string { return v.Volume }},
			{Header: "BACKUP", Cell: func(v dataset.PushedVersion) string { return v.Backup }},
			{Header: "ID", Cell: id},
		},
		SortBy: map[string]string{"version": "id", "pushed": "pushed"},
	})
	versions := cmd.RunE
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		if len(args) == 0 {
			return listRemotes(a, cmd)
		}
		if err := versions(cmd, args); err != nil {
			return err
		}
		return incomplete
	}
	return cmd
}

// listRemotes runs drover repository ls with the flags of a command line.
func listRemotes(a *cli.App, typed *cobra.Command) (err error) {
	list := repositories.ListCommand(a)
	list.Annotations = map[string]string{cobra.CommandDisplayNameAnnotation: typed.CommandPath()} // for usage errors
	set := func(name, value string) {
		if serr := list.Flags().Set(name, value); serr != nil && err == nil {
			err = cli.UsageError(typed, "--%s applies only to the versions in a remote: drover remote ls REMOTE", name)
		}
	}
	typed.LocalNonPersistentFlags().VisitAll(func(f *pflag.Flag) {
		if !f.Changed {
			return
		}
		if many, ok := f.Value.(pflag.SliceValue); ok {
			for _, value := range many.GetSlice() {
				set(f.Name, value)
			}
			return
		}
		set(f.Name, f.Value.String())
	})
	if err != nil {
		return err
	}
	list.SetContext(typed.Context())
	return list.RunE(list, nil)
}

// state says whether a version can be pulled, and whether it is the last of its name.
func state(v dataset.PushedVersion) string {
	switch {
	case v.Removed:
		return "removed"
	case v.Newest:
		return "newest"
	}
	return ""
}

// history returns all versions in a remote. It fails if a version cannot be read.
func history(ctx context.Context, c cli.Remote, remote string) (dataset.History, error) {
	list, err := c.Versions(ctx, remote, "")
	if err == nil {
		err = list.Problem.Err()
	}
	return list.Items, err
}
