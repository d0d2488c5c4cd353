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
		Short: "Have a pool of the server's host that is held serve as it is",
		Long: `Have a pool of the server's host that is held serve as it is. A pool is held
when its disk was put back to an older state, as with a virtual machine that is
rolled back: what was written to its volumes since is not there. Bring back the
newer disk, if it can be had; this is for when it cannot. Where another node has
a replica that is newer, stop drover here and have the volume go on from that
first: drover volume move VOLUME NODE --force --fenced THIS-NODE.`,
		Args: cli.Args(1), ValidArgsFunction: cli.Complete(a, cli.PoolWords),
	}
	cmd.Flags().BoolVar(&confirmed, "confirmed", false, "what it has not any more is lost")
	o := cli.OutputFlags(cmd, false)
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		if !confirmed {
			return dataset.Errorf(dataset.ErrInvalid,
				"accept of pool %s: say --confirmed once you know that the newer disk cannot be had: what "+
					"was written since is lost then", args[0])
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
		return a.Say("pool %s serves as it is (drover pool ls says so within seconds)", p.Name)
	}
	return cmd
}
