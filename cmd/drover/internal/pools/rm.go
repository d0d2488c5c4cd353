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
		Short: "Remove a pool of the server's host that holds nothing",
		Long: `Remove a pool of the server's host that holds nothing: no volume, snapshot,
copy or trash, and nothing that Drover did not put there. What Drover made at
its place goes (its folders, its image file, its volumes in a volume group), and
name and place can be used again. Devices that it was made of are not wiped: the
command says what takes them again, and what wipes them.

A pool that is away cannot be looked into, and is not removed. With --forget it
is taken off the record alone, and nothing at its place is touched, there or
not: drover pool adopt takes it back, here or on another host. That is refused
while volumes or copies are on record in it: drover volume rm and drover trash
purge, or drover volume move --force --fenced where a copy is left, come first.

A pool of drover.yaml, or the default one while there is no other, would be made
again at the next start, and is not removed.`,
		Example: `  drover pool rm fast
  drover pool rm --forget fast    # its disk is gone`,
		Args: cli.Args(1), ValidArgsFunction: cli.Complete(a, cli.PoolWords),
	}
	cmd.Flags().BoolVar(&forget, "forget", false, "take it off the record alone, and touch nothing at its place")
	o := cli.OutputFlags(cmd, false)
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		c, err := a.Connect()
		if err != nil {
			return err
		}
		gone, err := c.RemovePool(cmd.Context(), args[0], forget)
		if err != nil {
			return err
		}
		if o.JSON() {
			return show.JSON(a.Out, gone)
		}
		what := "removed pool %s"
		if forget {
			what = "forgot pool %s"
		}
		if err := a.Say(what, gone.Pool.Name); err != nil {
			return err
		}
		for _, note := range gone.Notes {
			if err := a.Say("%s", note); err != nil {
				return err
			}
		}
		return nil
	}
	return cmd
}
