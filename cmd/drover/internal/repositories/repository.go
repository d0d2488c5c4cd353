// Package repositories has the commands of drover repository, and drover push and drover pull. Package main adds them
// to the command tree. A pull restores a backup, so package backups makes its request. The commands call the API, and
// keep no state: the agents read and write the history of a repository.
//
// File repository.go has drover repository with its lists, and the other files have the commands after which they are
// named. File source.go parses names of versions, and makes the errors about them.
package repositories

import (
	"context"

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
		Fetch: func(ctx context.Context, c cli.Remote) ([]dataset.Repository, error) { return c.Repositories(ctx) },
		ID:    func(r dataset.Repository) string { return r.Name },
		Table: func(list []dataset.Repository) *show.Table {
			t := show.NewTable("NAME", "URL", "PASSWORD", "CREATED")
			for _, r := range list {
				t.Row(r.Name, r.URL, r.Password.String(), show.Ago(a.Now(), r.Created))
			}
			return t
		},
		Wide: []listing.Column[dataset.Repository]{
			{Header: "CREDENTIALS", Cell: func(r dataset.Repository) string { return r.CredentialsFile }},
			{Header: "MAX UPLOAD", Cell: uploadLimit},
			{Header: "MAX READ", Cell: readLimit},
			{Header: "RECORDS", Cell: recordsSetting},
			{Header: "BY", Cell: func(r dataset.Repository) string { return r.By }},
		},
		SortBy: map[string]string{"created": "created"},
	})
}

func newInspectCmd(a *cli.App) *cobra.Command {
	return cli.Inspect(a, "inspect NAME [NAME...]", "Show repositories in detail", cli.RepositoryWords,
		cli.Inspected[dataset.Repository]{
			Template: listing.Template[dataset.Repository],
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
