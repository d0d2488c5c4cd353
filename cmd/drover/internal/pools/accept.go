package pools

import (
	"github.com/spf13/cobra"

	"github.com/droverhq/drover/cmd/drover/internal/cli"
	"github.com/droverhq/drover/cmd/drover/internal/show"
	"github.com/droverhq/drover/control/api"
	"github.com/droverhq/drover/dataset"
)

func newPoolAcceptCmd(a *cli.App) *cobra.Command {
	var confirmed bool
	cmd := &cobra.Command{
		Use:   "accept POOL",
		Short: "Accept a held pool of the server's host as it is",
		Long: `Accept a held pool of the server's host as it is. A pool is held if its disk was
restored from an older state, for example with a rollback of a virtual machine:
the data that was written since is missing. If the newer disk exists, put it
back instead. If another node has a newer replica, stop drover here and make the
volume continue from that replica first:
drover volume move VOLUME NODE --force --fenced THIS-NODE.`,
		Args: cli.Args(1), ValidArgsFunction: cli.Complete(a, cli.PoolWords),
	}
	cmd.Flags().BoolVar(&confirmed, "confirmed", false, "confirm that the missing data is lost")
	o := cli.OutputFlags(cmd, false)
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		if !confirmed {
			return dataset.Errorf(dataset.ErrInvalid,
				"accept pool %s: the data that was written since is lost: repeat with --confirmed once you know "+
					"that the newer disk cannot be recovered", args[0])
		}
		c, err := a.Connect()
		if err != nil {
			return err
		}
		p, err := c.AcceptPool(cmd.Context(), args[0], api.AcceptPool{Confirmed: true})
		if err != nil {
			return err
		}
		if o.JSON() {
			return show.JSON(a.Out, p)
		}
		return a.PrintLine("accepted pool %s as it is (drover pool ls shows it as online within seconds)", p.Name)
	}
	return cmd
}
