package pools

import (
	"github.com/spf13/cobra"

	"github.com/droverhq/drover/cmd/drover/internal/cli"
	"github.com/droverhq/drover/control/api"
	"github.com/droverhq/drover/dataset"
)

func newPoolSetCmd(a *cli.App) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "set POOL",
		Short: "Change the policy of a pool of the server's host",
		Long: `Change the policy of a pool of the server's host. The sizes of its volumes may
add up to RATIO times the size of the pool: 1 never promises more than there is,
and 0 removes the limit. Creates, clones, resizes and moves beyond it are
refused. Existing volumes stay as they are.`,
		Example: `  drover pool set fast --overcommit 1.5`,
		Args:    cli.Args(1), ValidArgsFunction: cli.Complete(a, cli.PoolWords),
	}
	var p api.PoolPolicy
	cmd.Flags().Float64Var(&p.Overcommit, "overcommit", 0, "the highest `RATIO`; 0 for no limit")
	o := cli.OutputFlags(cmd, false)
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		if !cmd.Flags().Changed("overcommit") {
			return cli.UsageError(cmd, "missing flag: --overcommit RATIO")
		}
		if err := dataset.CheckOvercommit(p.Overcommit); err != nil {
			return err
		}
		c, err := a.Connect()
		if err != nil {
			return err
		}
		changed, err := c.SetPool(cmd.Context(), args[0], p)
		switch {
		case err != nil:
			return err
		case o.JSON():
			return cli.JSON(a.Out, changed)
		case p.Overcommit == 0:
			return a.PrintLine("pool %s has no limit for overcommit", changed.Name)
		}
		return a.PrintLine("pool %s allows an overcommit of %s", changed.Name, dataset.FormatRatio(p.Overcommit))
	}
	return cmd
}
