package pools

import (
	"context"
	"fmt"

	"github.com/spf13/cobra"

	"github.com/droverhq/drover/cmd/drover/internal/cli"
	"github.com/droverhq/drover/control/api"
)

func newPoolRmCmd(a *cli.App) *cobra.Command {
	var forget bool
	cmd := &cobra.Command{
		Use:        "rm NAME",
		Aliases:    []string{"remove", "delete"},
		SuggestFor: []string{"destroy"},
		Short:      "Remove an empty pool of the server's host",
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

The name of the pool must be typed to confirm the command, unless --yes is
given. A pool of drover.yaml is not removed, and neither is the default pool
while there is no other: they would be created again at the next start.`,
		Example: `  drover pool rm fast
  drover pool rm --forget fast    # its disk is gone`,
		Args: cli.Args(1), ValidArgsFunction: cli.Complete(a, cli.PoolWords),
	}
	cmd.Flags().BoolVar(&forget, "forget", false, "remove it only from the store, and touch nothing at its place")
	o, yes := cli.OutputFlags(cmd, false), cli.AddFlag(cmd)
	cli.DryRunFlag(cmd, o)
	cmd.RunE = a.Connected(func(cmd *cobra.Command, c cli.Remote, args []string) error {
		removed, err := removePool(cmd.Context(), a, c, o, yes, args[0], forget)
		if err != nil {
			return err
		}
		if o.JSON() {
			return cli.JSON(a.Out, removed)
		}
		format := "removed pool %s"
		switch {
		case o.DryRun && forget:
			format = "dry run: would forget pool %s, and touch nothing at its place"
		case o.DryRun:
			format = "dry run: would remove pool %s, which is empty"
		case forget:
			format = "forgot pool %s"
		}
		if err := a.PrintLine(format, removed.Pool.Name); err != nil {
			return err
		}
		if forget && !o.DryRun {
			err := a.PrintLine("drover pool adopt adds it again, with its content, when its disk is back")
			if err != nil {
				return err
			}
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

// removePool removes a pool after a confirmation. The question follows a preview, so nobody is asked about a removal
// that is refused.
func removePool(ctx context.Context, a *cli.App, c cli.Remote, o *cli.Output, yes *cli.Flag, name string,
	forget bool) (api.RemovedPool, error) {
	if !yes.Given() || o.DryRun {
		gone, err := c.RemovePool(ctx, name, api.PoolRemoval{Forget: forget, DryRun: true})
		if err != nil || o.DryRun {
			return gone, err
		}
		if err := yes.Ask(a, removalQuestion(gone, forget)); err != nil {
			return gone, err
		}
	}
	return c.RemovePool(ctx, name, api.PoolRemoval{Forget: forget})
}

func removalQuestion(gone api.RemovedPool, forget bool) cli.Question {
	p := gone.Pool
	q := cli.Question{Action: "remove pool " + p.Name, Name: p.Name}
	effect := fmt.Sprintf("removes everything that Drover created for the pool at %s; it has no data", p.Path)
	if forget {
		q.Action = "forget pool " + p.Name
		effect = fmt.Sprintf("removes the record of the pool; its place, %s, is not changed", p.Path)
	}
	q.Effects = append([]string{effect}, gone.Notes...)
	return q
}
