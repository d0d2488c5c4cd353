package repositories

import (
	"fmt"

	"github.com/spf13/cobra"

	"github.com/droverhq/drover/cmd/drover/internal/cli"
	"github.com/droverhq/drover/cmd/drover/internal/show"
	"github.com/droverhq/drover/control/api"
	"github.com/droverhq/drover/dataset"
)

// maxUpload is the name of the flag that limits uploads.
const maxUpload = "max-upload"

// uploadFlag adds the flag that limits uploads.
func uploadFlag(cmd *cobra.Command) {
	cmd.Flags().String(maxUpload, "", "the largest `SIZE` that a backup sends in a second; 0 for no limit")
}

// parseUpload returns the value of the flag that limits uploads, or nil if the flag is not used.
func parseUpload(cmd *cobra.Command) (*dataset.Size, error) {
	f := cmd.Flags().Lookup(maxUpload)
	if !f.Changed {
		return nil, nil
	}
	if f.Value.String() == "0" {
		return new(dataset.Size), nil
	}
	limit, err := dataset.ParseSize(f.Value.String())
	if err != nil {
		return nil, fmt.Errorf("--%s: %w", maxUpload, err)
	}
	return &limit, nil
}

// uploadLimit returns the limit of uploads, such as "20MiB/s", or "" if there is none.
func uploadLimit(r dataset.Repository) string {
	if r.MaxUpload == 0 {
		return ""
	}
	return r.MaxUpload.String() + "/s"
}

func newSetCmd(a *cli.App) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "set NAME",
		Short: "Change the upload limit of a repository",
		Long: `Change how fast a backup is sent to a repository. The limit applies to each
backup, on each node, from the next backup on. A backup that runs keeps the
former limit. A low limit makes backups long: at 20MiB, the first backup of
100 GiB takes an hour and a half.`,
		Example: `  drover repository set offsite --max-upload 20MiB
  drover repository set offsite --max-upload 0`,
		Args: cli.Args(1), ValidArgsFunction: cli.Complete(a, cli.RepositoryWords),
	}
	uploadFlag(cmd)
	o := cli.OutputFlags(cmd, false)
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		limit, err := parseUpload(cmd)
		switch {
		case err != nil:
			return err
		case limit == nil:
			return cli.UsageError(cmd, "missing flag: --max-upload SIZE")
		}
		c, err := a.Connect()
		if err != nil {
			return err
		}
		known, err := c.Repository(cmd.Context(), args[0])
		if err != nil {
			return err
		}
		changed, err := c.AddRepository(cmd.Context(), api.NewRepository{
			Name: known.Name, URL: known.URL, Password: known.Password, CredentialsFile: known.CredentialsFile,
			MaxUpload: limit,
		})
		switch {
		case err != nil:
			return err
		case o.JSON():
			return show.JSON(a.Out, changed)
		case changed.MaxUpload == 0:
			return a.PrintLine("backups to repository %s have no upload limit", changed.Name)
		}
		return a.PrintLine("each backup to repository %s sends at most %s", changed.Name, uploadLimit(changed))
	}
	return cmd
}
