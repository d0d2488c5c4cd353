package backups

import (
	"context"
	"time"

	"github.com/spf13/cobra"

	"github.com/droverhq/drover/cmd/drover/internal/cli"
	"github.com/droverhq/drover/control/api"
	"github.com/droverhq/drover/dataset"
)

// RepositoryCommand makes drover repository with its subcommands.
func RepositoryCommand(a *cli.App) *cobra.Command {
	return cli.Group(&cobra.Command{
		Use:        "repository",
		Aliases:    []string{"repo"},
		SuggestFor: []string{"remote", "remotes"},
		Short:      "Manage repositories for backups and pushed versions",
	},
		newAddCmd(a), newRepositoryLsCmd(a), newVersionsCmd(a), newSetCmd(a),
		newCheckCmd(a), newRepositoryRmCmd(a),
	)
}

func newRepositoryLsCmd(a *cli.App) *cobra.Command {
	return cli.New(a, cli.List[dataset.Repository]{
		Short: "List the repositories",
		Fetch: cli.FromServer(a, func(
			ctx context.Context, c cli.Remote, _ cli.ListQuery) ([]dataset.Repository, error) {
			return c.Repositories(ctx)
		}),
		ID: func(r dataset.Repository) string { return r.Name },
		Columns: func([]dataset.Repository) []cli.Column[dataset.Repository] {
			return []cli.Column[dataset.Repository]{
				{Header: "NAME", Cell: func(r dataset.Repository) string { return r.Name }},
				{Header: "URL", Cell: func(r dataset.Repository) string { return r.URL }},
				{Header: "PASSWORD", Cell: func(r dataset.Repository) string { return r.Password.String() }},
				cli.Time(a, "CREATED", func(r dataset.Repository) time.Time { return r.Created }),
				{Header: "CREDENTIALS", Wide: true,
					Cell: func(r dataset.Repository) string { return r.CredentialsFile }},
				{Header: "MAX UPLOAD", Wide: true, Cell: uploadLimit},
				{Header: "MAX READ", Wide: true, Cell: readLimit},
				{Header: "RECORDS", Wide: true, Cell: recordsSetting},
				{Header: "BY", Wide: true, Cell: func(r dataset.Repository) string { return r.By }},
			}
		},
		Compare: cli.By(func(r dataset.Repository) string { return r.Name }),
	})
}

// repositoryDigits is how many characters of the ID of a repository are printed. restic prints as many.
const repositoryDigits = 10

func idOf(state api.RepositoryState) string { return state.ID[:min(repositoryDigits, len(state.ID))] }
