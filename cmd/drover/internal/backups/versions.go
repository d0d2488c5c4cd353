package backups

import (
	"context"
	"time"

	"github.com/spf13/cobra"

	"github.com/droverhq/drover/cmd/drover/internal/cli"
	"github.com/droverhq/drover/dataset"
)

// newVersionsCmd makes drover repository versions.
func newVersionsCmd(a *cli.App) *cobra.Command {
	var incomplete error // why the list lacks versions
	cmd := cli.New(a, cli.List[dataset.PushedVersion]{
		Use:   "versions REPOSITORY",
		Short: "List the versions of volumes that were pushed to a repository",
		Long: `List the versions of volumes that were pushed to a repository, in the order in
which they were pushed: of all names, or of one name with REPOSITORY/NAME. The
server's host reads the list from the repository. Versions that other clusters
pushed are listed, too. BY and NODE are who pushed a version, and where.

A version is newest if no other version of its name continues it. Two newest
versions of a name mean that both sides have changed. If the data of a version
was removed with drover backup rm, the version is listed as removed. If a
version cannot be read, the others are listed, and the command fails.`,
		ValidArgs: cli.Complete(a, cli.RepositoryWords),
		Fetch: cli.FromServer(a, func(
			ctx context.Context, c cli.Remote, q cli.ListQuery) ([]dataset.PushedVersion, error) {
			repository, name, err := parsePlace(q.Args[0])
			if err != nil {
				return nil, err
			}
			list, err := c.Versions(ctx, repository, name)
			incomplete = list.Problem.Err()
			return list.Items, err
		}),
		WatchPause: 30 * time.Second, // restic reads the repository for every list

		ID:      func(v dataset.PushedVersion) string { return v.ID.String() },
		Columns: func([]dataset.PushedVersion) []cli.Column[dataset.PushedVersion] { return versionColumns(a) },
		Compare: func(x, y dataset.PushedVersion) int { return x.Pushed.Compare(y.Pushed) },
		Moment: &cli.Moment[dataset.PushedVersion]{
			Of: func(v dataset.PushedVersion) time.Time { return v.Pushed }, Verb: "pushed",
		},
	})
	cmd.Args = cli.Args(1)
	list := cmd.RunE
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		if err := list(cmd, args); err != nil {
			return err
		}
		return incomplete
	}
	return cmd
}

func versionColumns(a *cli.App) []cli.Column[dataset.PushedVersion] {
	type version = dataset.PushedVersion
	id := func(v version) string { return v.ID.String() }
	return []cli.Column[version]{
		{Header: "VERSION", Cell: func(v version) string { return shortUUID(v.ID) }, Whole: id},
		cli.Volume("NAME", func(v version) string { return v.Name }),
		cli.Time(a, "PUSHED", func(v version) time.Time { return v.Pushed }),
		{Header: "BY", Cell: func(v version) string { return v.By }},
		{Header: "NODE", Cell: func(v version) string { return v.Node }},
		{Header: "STATE", Cell: state},
		{Header: "PARENT", Wide: true, Cell: func(v version) string { return shortUUID(v.Parent) }},
		{Header: "VOLUME", Wide: true, Cell: func(v version) string { return v.Volume }},
		{Header: "BACKUP", Wide: true, Cell: func(v version) string { return v.Backup }},
		{Header: "ID", Wide: true, Cell: id},
	}
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

// history returns all versions in a repository. It fails if a version cannot be read.
func history(ctx context.Context, c cli.Remote, repository string) (dataset.History, error) {
	list, err := c.Versions(ctx, repository, "")
	if err == nil {
		err = list.Problem.Err()
	}
	return list.Items, err
}
