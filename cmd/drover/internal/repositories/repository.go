// Package repositories has the commands of drover repository, and drover push and drover pull. Package main adds them
// to the command tree. A pull restores a backup, so package backups makes its request. The commands call the API, and
// keep no state: the agents read and write the history of a repository.
//
// File repository.go has drover repository with its lists, and the other files have the commands after which they are
// named. File source.go parses names of versions, and makes the errors about them.
package repositories

import (
	"context"
	"time"

	"github.com/spf13/cobra"

	"github.com/droverhq/drover/cmd/drover/internal/cli"
	"github.com/droverhq/drover/cmd/drover/internal/listing"
	"github.com/droverhq/drover/cmd/drover/internal/show"
	"github.com/droverhq/drover/control/api"
	"github.com/droverhq/drover/dataset"
)

// Command makes drover repository with its subcommands.
func Command(a *cli.App) *cobra.Command {
	return cli.Group(&cobra.Command{
		Use:        "repository",
		Aliases:    []string{"repo"},
		SuggestFor: []string{"remote", "remotes"},
		Short:      "Manage repositories for backups and pushed versions",
	},
		newAddCmd(a), newLsCmd(a), newInspectCmd(a), newVersionsCmd(a), newSetCmd(a), newCheckCmd(a), newRmCmd(a),
	)
}

func newLsCmd(a *cli.App) *cobra.Command {
	return listing.New(a, listing.List[dataset.Repository]{
		Short: "List the repositories",
		Fetch: listing.FromServer(a, func(
			ctx context.Context, c cli.Remote, _ listing.Query) ([]dataset.Repository, error) {
			return c.Repositories(ctx)
		}),
		ID: func(r dataset.Repository) string { return r.Name },
		Columns: func([]dataset.Repository) []listing.Column[dataset.Repository] {
			return []listing.Column[dataset.Repository]{
				{Header: "NAME", Cell: func(r dataset.Repository) string { return r.Name }},
				{Header: "URL", Cell: func(r dataset.Repository) string { return r.URL }},
				{Header: "PASSWORD", Cell: func(r dataset.Repository) string { return r.Password.String() }},
				listing.Time(a, "CREATED", func(r dataset.Repository) time.Time { return r.Created }),
				{Header: "CREDENTIALS", Wide: true,
					Cell: func(r dataset.Repository) string { return r.CredentialsFile }},
				{Header: "MAX UPLOAD", Wide: true, Cell: uploadLimit},
				{Header: "MAX READ", Wide: true, Cell: readLimit},
				{Header: "RECORDS", Wide: true, Cell: recordsSetting},
				{Header: "BY", Wide: true, Cell: func(r dataset.Repository) string { return r.By }},
			}
		},
		Compare: listing.By(func(r dataset.Repository) string { return r.Name }),
	})
}

func newInspectCmd(a *cli.App) *cobra.Command {
	return cli.Inspect(a, "inspect NAME [NAME...]", "Show repositories in detail", cli.RepositoryWords,
		cli.Inspected[dataset.Repository]{
			Get: func(ctx context.Context, c cli.Remote, name string) (dataset.Repository, error) {
				return c.Repository(ctx, name)
			},
			Form: func(_ context.Context, _ cli.Remote, r dataset.Repository) *show.Form {
				f := &show.Form{}
				f.Add("Repository", r.Name)
				f.Add("URL", r.URL)
				f.Add("Password", r.Password.String())
				f.Add("Credentials", r.CredentialsFile)
				f.Add("Max upload", uploadLimit(r))
				f.Add("Max read", readLimit(r))
				f.Add("Stores records", recordsSetting(r))
				f.Add("Created", show.When(a.Now(), r.Created))
				f.Add("By", r.By)
				return f
			},
		})
}

// shortID is how many characters of the ID of a repository are printed. restic prints as many.
const shortID = 10

func idOf(state api.RepositoryState) string { return state.ID[:min(shortID, len(state.ID))] }
