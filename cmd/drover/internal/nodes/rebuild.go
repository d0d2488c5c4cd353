package nodes

import (
	"context"

	"github.com/droverhq/drover/cmd/drover/internal/cli"
	"github.com/droverhq/drover/cmd/drover/internal/pools"
	"github.com/droverhq/drover/control/api"
)

// rebuildStore restores the records from the pools of the server's host, and prints what it did for each dataset.
func rebuildStore(ctx context.Context, a *cli.App, c cli.Remote, o *cli.Output, in api.RebuildStore) error {
	rebuilt, err := c.RebuildStore(ctx, in)
	if err != nil {
		return err
	}
	if in.DryRun && !o.JSON() && !o.Quiet {
		if err := a.PrintLine("dry run: would restore the records as follows"); err != nil {
			return err
		}
	}
	return cli.PrintList(a, o, rebuilt, func(r api.Rebuilt) string { return r.Dataset.String() }, pools.RebuiltTable)
}
