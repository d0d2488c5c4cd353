package backups

import (
	"strconv"
	"strings"

	"github.com/spf13/cobra"

	"github.com/droverhq/drover/cmd/drover/internal/cli"
	"github.com/droverhq/drover/control/api"
	"github.com/droverhq/drover/dataset"
)

func newCheckCmd(a *cli.App) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "check NAME",
		Short: "Check a repository for missing and damaged data",
		Long: `Check a repository from the server's host: that the password opens it, and that
no data is missing. Only --read-data finds data that is damaged: it reads the
given percentage of the data, chosen at random. It can take hours, and has idle
I/O priority. Ctrl-C ends the check.

restic has the repository for itself during a check: it refuses backups to the
repository meanwhile. A host runs at most two checks at a time.`,
		Example: `  drover repository check offsite
  drover repository check offsite --read-data 10`,
		Args: cli.Args(1), ValidArgsFunction: cli.Complete(a, cli.RepositoryWords),
	}
	var percent string
	cmd.Flags().StringVar(&percent, "read-data", "", "also read `PERCENT` of the data")
	o := cli.OutputFlags(cmd, false)
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		req := api.RepositoryCheck{Name: args[0]}
		if cmd.Flags().Changed("read-data") {
			n, err := strconv.Atoi(strings.TrimSuffix(percent, "%"))
			if err != nil || n < 1 || n > 100 {
				return cli.UsageError(cmd, "bad --read-data %q: expected 1 to 100, without fractions",
					dataset.Clip(percent))
			}
			req.ReadDataPercent = n
		}
		c, err := a.Connect()
		if err != nil {
			return err
		}
		state, err := c.CheckRepository(cmd.Context(), req)
		switch {
		case err != nil:
			return err
		case o.JSON():
			return cli.JSON(a.Out, state)
		case req.ReadDataPercent > 0:
			return a.PrintLine("repository %s (%s): no data is missing, and %d%% of the data was read without errors",
				req.Name, idOf(state), req.ReadDataPercent)
		}
		return a.PrintLine("repository %s (%s): no data is missing", req.Name, idOf(state))
	}
	return cmd
}
