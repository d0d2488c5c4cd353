package nodes

import (
	"github.com/spf13/cobra"

	"github.com/droverhq/drover/cmd/drover/internal/cli"
	"github.com/droverhq/drover/cmd/drover/internal/pools"
	"github.com/droverhq/drover/control/api"
)

func newStoreRebuildCmd(a *cli.App) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "rebuild",
		Short: "Restore lost records from the pools",
		Long: `Restore the records that the store lost from the pools of the server's host.
Every dataset has a copy of its record beside its data. Existing records are not
changed, unless the record beside the data is newer, and a name that is taken
stays with its volume. What is in the trash gets its whole time again. --dry-run
shows the outcome for each dataset. In a cluster use drover store recover.`,
		Args:              cli.Args(0),
		ValidArgsFunction: cobra.NoFileCompletions,
	}
	o := cli.OutputFlags(cmd, true)
	cli.DryRunFlag(cmd, o)
	var in api.RebuildStore
	cmd.Flags().BoolVar(&in.SkipOffline, "skip-offline", false,
		"ignore offline pools; the names of their volumes can then be taken by others")
	cmd.RunE = a.Connected(func(cmd *cobra.Command, c cli.Remote, _ []string) error {
		in.DryRun = o.DryRun
		rebuilt, err := c.RebuildStore(cmd.Context(), in)
		if err != nil {
			return err
		}
		if o.DryRun && !o.JSON() && !o.Quiet {
			if err := a.PrintLine("dry run: would restore the records as follows"); err != nil {
				return err
			}
		}
		return cli.PrintList(a, o, rebuilt, func(r api.Rebuilt) string { return r.Dataset.String() },
			pools.RebuiltTable)
	})
	return cmd
}
