package pools

import (
	"context"

	"github.com/spf13/cobra"

	"github.com/droverhq/drover/cmd/drover/internal/cli"
	"github.com/droverhq/drover/control/api"
)

func newPoolAcceptCmd(a *cli.App) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "accept POOL",
		Short: "Accept a held pool of the server's host as it is",
		Long: `Accept a held pool of the server's host as it is. A pool is held if its disk was
restored from an older state, for example with a rollback of a virtual machine:
the data that was written since is missing. If the newer disk exists, put it
back instead. If another node has a newer replica, stop drover here and make the
volume continue from that replica first:
drover volume move VOLUME NODE --force --fenced THIS-NODE. The name of the pool
must be typed to confirm that the missing data is lost, unless --yes is given.`,
		Args: cli.Args(1), ValidArgsFunction: cli.Complete(a, cli.PoolWords),
	}
	yes := cli.AddFlag(cmd)
	o := cli.OutputFlags(cmd, false)
	cli.DryRunFlag(cmd, o)
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		if o.DryRun {
			return acceptPool(cmd.Context(), a, o, args[0], api.AcceptPool{DryRun: true})
		}
		if err := yes.Ask(a, cli.Question{
			Action: "accept pool " + args[0],
			Effects: []string{
				"the data that was written since its disk was restored from an older state is lost for good",
				"you confirm that the newer disk cannot be recovered",
			},
			Name: args[0],
		}); err != nil {
			return err
		}
		return acceptPool(cmd.Context(), a, o, args[0], api.AcceptPool{Confirmed: true})
	}
	return cmd
}

func acceptPool(ctx context.Context, a *cli.App, o *cli.Output, name string, in api.AcceptPool) error {
	c, err := a.Connect()
	if err != nil {
		return err
	}
	p, err := c.AcceptPool(ctx, name, in)
	if err != nil {
		return err
	}
	switch {
	case o.JSON():
		return cli.JSON(a.Out, p)
	case in.DryRun:
		return a.PrintLine("dry run: would accept pool %s as it is; the data that it lacks would be lost", p.Name)
	}
	return a.PrintLine("accepted pool %s as it is (drover pool ls shows it as online within seconds)", p.Name)
}
