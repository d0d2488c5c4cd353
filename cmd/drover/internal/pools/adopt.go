package pools

import (
	"fmt"

	"github.com/spf13/cobra"

	"github.com/droverhq/drover/cmd/drover/internal/cli"
	"github.com/droverhq/drover/control/api"
)

func newPoolAdoptCmd(a *cli.App) *cobra.Command {
	cmd := &cobra.Command{
		Use:        "adopt PATH",
		SuggestFor: []string{"import"},
		Short:      "Adopt an existing pool on the server's host with its volumes",
		Long: `Adopt an existing pool on the server's host with its volumes. The pool comes
from another host, or the store was lost. The volumes keep their names. If a
name is taken, the first digits of the volume's UUID are appended. --dry-run
opens the pool to read what it contains, closes it again, and shows the outcome
for each volume.`,
		Args: cli.Args(1),
	}
	o := cli.OutputFlags(cmd, false)
	cli.DryRunFlag(cmd, o)
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		path, err := a.HostPath(args[0])
		if err != nil {
			return err
		}
		c, err := a.Connect()
		if err != nil {
			return err
		}
		pool, rebuilt, err := c.AdoptPool(cmd.Context(), path, o.DryRun)
		if err != nil {
			return err
		}
		if o.JSON() {
			return cli.JSON(a.Out, api.Adopted{Pool: pool, Rebuilt: append([]api.Rebuilt{}, rebuilt...)})
		}
		did := "adopted"
		if o.DryRun {
			did = "dry run: would adopt"
		}
		if err := a.PrintLine("%s pool %s: %s, backend %s at %s", did, pool.Name, pool.ID, pool.Backend,
			pool.Path); err != nil {
			return err
		}
		if _, err := fmt.Fprintln(a.Out); err != nil {
			return err
		}
		return RebuiltTable(rebuilt).Write(a.Out)
	}
	return cmd
}

// RebuiltTable shows the datasets whose records were rebuilt.
func RebuiltTable(rebuilt []api.Rebuilt) *cli.Table {
	t := cli.NewTable("VOLUME", "DATASET", "OUTCOME", "NOTE")
	for _, r := range rebuilt {
		t.Row(cli.ShortName(r.Volume), r.Dataset.String(), r.Action, r.Note)
	}
	return t
}
