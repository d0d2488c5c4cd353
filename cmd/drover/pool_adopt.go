package main

import (
	"fmt"

	"github.com/spf13/cobra"

	"github.com/droverhq/drover/cmd/drover/internal/show"
	"github.com/droverhq/drover/control/api"
)

func newPoolAdoptCmd(a *app) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "adopt PATH",
		Short: "Take over a pool that lies on the server's host, with all that is in it",
		Long: `Take over a pool that lies on the server's host, from another host or from
before the store was lost. The volumes in it come back under their names, or,
where a name is taken, under the name and the beginning of their UUID.`,
		Args: args(1),
	}
	o := outputFlags(cmd, false)
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		path, err := a.hostPath(args[0])
		if err != nil {
			return err
		}
		c, err := a.connect()
		if err != nil {
			return err
		}
		pool, rebuilt, err := c.AdoptPool(cmd.Context(), path)
		if err != nil {
			return err
		}
		if o.json() {
			return show.JSON(a.out, api.Adopted{Pool: pool, Rebuilt: append([]api.Rebuilt{}, rebuilt...)})
		}
		if err := a.say("adopted pool %s: %s, backend %s at %s", pool.Name, pool.ID, pool.Backend,
			pool.Path); err != nil {
			return err
		}
		if _, err := fmt.Fprintln(a.out); err != nil {
			return err
		}
		return rebuiltTable(rebuilt).Write(a.out)
	}
	return cmd
}

func rebuiltTable(rebuilt []api.Rebuilt) *show.Table {
	t := show.NewTable("VOLUME", "DATASET", "OUTCOME", "NOTE")
	for _, r := range rebuilt {
		t.Row(shortName(r.Volume), r.Dataset.String(), r.Action, r.Note)
	}
	return t
}
