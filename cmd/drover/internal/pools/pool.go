// Package pools has the commands of drover pool. Packages nodes and verification use its words for the states and
// capabilities of pools, and package nodes shows rebuilt datasets with RebuiltTable. Package main adds the commands to
// the command tree. The commands call the API, and keep no state.
package pools

import (
	"context"
	"fmt"

	"github.com/spf13/cobra"

	"github.com/droverhq/drover/cmd/drover/internal/cli"
	"github.com/droverhq/drover/control/api"
	"github.com/droverhq/drover/dataset"
)

// Command makes drover pool with its subcommands.
func Command(a *cli.App) *cobra.Command {
	return cli.Group(&cobra.Command{
		Use:        "pool",
		SuggestFor: []string{"zpool"},
		Short:      "Manage storage pools",
	},
		newPoolCreateCmd(a), newPoolLsCmd(a), newPoolInspectCmd(a), newPoolAdoptCmd(a), newPoolAcceptCmd(a),
		newPoolSetCmd(a), newPoolRmCmd(a),
	)
}

func newPoolCreateCmd(a *cli.App) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "create NAME",
		Short: "Create a pool on the server's host",
		Long: `Create a pool on the server's host. Existing data at PATH is never touched: a
folder must be empty. With --image, PATH is a new file: a preallocated image of
that size, which contains the pool. With --device, the pool consists of whole
devices, which must be empty, and Drover mounts it; --path is optional then.`,
		Example: `  drover pool create fast --backend loop --path /mnt/xfs/drover
  drover pool create disk --backend loop --device /dev/disk/by-id/nvme-X_1
  drover pool create big --backend loop --path /var/lib/big.img --image 200GiB
  drover pool create safe --backend loop --path /mnt/xfs/safe --overcommit 1`,
		Args:              cli.Args(1),
		ValidArgsFunction: cobra.NoFileCompletions,
	}
	o := cli.OutputFlags(cmd, false)
	p := api.NewPool{}
	cmd.Flags().StringVar(&p.Backend, "backend", "", "the `KIND` of storage, such as loop or dir")
	cmd.Flags().StringVar(&p.Path, "path", "", "an absolute `PATH` on the server's host")
	cmd.Flags().StringVar(&p.Image, "image", "", "`SIZE` of an image file to create at PATH")
	cmd.Flags().StringArrayVar(&p.Devices, "device", nil, "an empty block `DEVICE` of the server's host; repeatable")
	cmd.Flags().Float64Var(&p.Overcommit, "overcommit", 0, "refuse volumes whose sizes exceed the pool `RATIO` times")
	cmd.RunE = a.Connected(func(cmd *cobra.Command, c cli.Remote, args []string) error {
		switch {
		case p.Backend == "" || p.Path == "" && len(p.Devices) == 0:
			return cli.UsageError(cmd, "missing flags: --backend KIND and --path PATH, or --backend KIND and "+
				"--device DEVICE")
		case p.Image != "" && len(p.Devices) > 0:
			return cli.UsageError(cmd, "--image and --device exclude each other")
		}
		if p.Image != "" {
			if _, err := dataset.ParseSize(p.Image); err != nil {
				return err
			}
		}
		if err := dataset.CheckOvercommit(p.Overcommit); err != nil {
			return err
		}
		p.Name = args[0]
		for i := range p.Devices {
			if err := a.CleanHostPath("device", &p.Devices[i]); err != nil {
				return err
			}
		}
		if p.Path != "" || len(p.Devices) == 0 {
			if err := a.CleanHostPath("path", &p.Path); err != nil {
				return err
			}
		}
		pool, err := c.CreatePool(cmd.Context(), p)
		if err != nil {
			return err
		}
		if o.JSON() {
			return cli.JSON(a.Out, pool)
		}
		if err := a.PrintLine("created pool %s: %s, backend %s at %s", pool.Name, pool.ID, pool.Backend,
			pool.Path); err != nil || pool.Note == "" {
			return err
		}
		return a.PrintLine("%s", pool.Note)
	})
	return cmd
}

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
	cmd.RunE = a.Connected(func(cmd *cobra.Command, c cli.Remote, args []string) error {
		path, err := a.HostPath(args[0])
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
	})
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
	cmd.RunE = a.Connected(func(cmd *cobra.Command, c cli.Remote, args []string) error {
		if !cmd.Flags().Changed("overcommit") {
			return cli.UsageError(cmd, "missing flag: --overcommit RATIO")
		}
		if err := dataset.CheckOvercommit(p.Overcommit); err != nil {
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
	})
	return cmd
}

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
