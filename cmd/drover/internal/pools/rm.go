package pools

import (
	"github.com/spf13/cobra"

	"github.com/droverhq/drover/cmd/drover/internal/cli"
	"github.com/droverhq/drover/cmd/drover/internal/show"
)

func newPoolRmCmd(a *cli.App) *cobra.Command {
	var forget bool
	cmd := &cobra.Command{
		Use:   "rm NAME",
		Short: "Remove an empty pool of the server's host",
		Long: `Remove an empty pool of the server's host: one without volumes, snapshots,
copies and trash, and without foreign files. Everything that Drover created for
the pool is removed: its folders, its image file, its volumes in a volume group.
Its name and place can then be used again. Its devices are not wiped: the
command prints how to reuse them, and how to wipe them.

An offline pool cannot be checked, and is not removed. --forget removes it only
from the store and touches nothing at its place. drover pool adopt adds it
again, here or on another host. --forget is refused while the store has volumes
or copies in the pool. Remove them first with drover volume rm and drover trash
purge, or with drover volume move --force --fenced if another node has a copy.

A pool of drover.yaml is not removed, and neither is the default pool while
there is no other: they would be created again at the next start.`,
		Example: `  drover pool rm fast
  drover pool rm --forget fast    # its disk is gone`,
		Args: cli.Args(1), ValidArgsFunction: cli.Complete(a, cli.PoolWords),
	}
	cmd.Flags().BoolVar(&forget, "forget", false, "remove it only from the store, and touch nothing at its place")
	o := cli.OutputFlags(cmd, false)
	cmd.RunE = a.Connected(func(cmd *cobra.Command, c cli.Remote, args []string) error {
		removed, err := c.RemovePool(cmd.Context(), args[0], forget)
		if err != nil {
			return err
		}
		if o.JSON() {
			return show.JSON(a.Out, removed)
		}
		format := "removed pool %s"
		if forget {
			format = "forgot pool %s"
		}
		if err := a.PrintLine(format, removed.Pool.Name); err != nil {
			return err
		}
		for _, note := range removed.Notes {
			if err := a.PrintLine("%s", note); err != nil {
				return err
			}
		}
		return nil
	})
	return cmd
}
