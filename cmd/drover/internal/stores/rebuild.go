package stores

import (
	"github.com/spf13/cobra"

	"github.com/droverhq/drover/cmd/drover/internal/cli"
	"github.com/droverhq/drover/cmd/drover/internal/pools"
	"github.com/droverhq/drover/control/api"
)

func newStoreRebuildCmd(a *cli.App) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "rebuild",
		Short: "Bring back from the pools what the store does not know",
		Long: `Bring back from the pools of the server's host what the store does not know, as
after it was lost: beside every dataset lies what it is and was called. What is
on record is left as it is, and a name that is taken is not taken away.`,
		Args:              cli.Args(0),
		ValidArgsFunction: cobra.NoFileCompletions,
	}
	o := cli.OutputFlags(cmd, true)
	var skip bool
	cmd.Flags().BoolVar(&skip, "skip-offline", false,
		"go without the pools that are offline, whose names others can take then")
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		c, err := a.Connect()
		if err != nil {
			return err
		}
		rebuilt, err := c.RebuildStore(cmd.Context(), skip)
		if err != nil {
			return err
		}
		return cli.PrintList(a, o, rebuilt, func(r api.Rebuilt) string { return r.Dataset.String() },
			pools.RebuiltTable)
	}
	return cmd
}
