package pools

import (
	"github.com/spf13/cobra"

	"github.com/droverhq/drover/cmd/drover/internal/cli"
	"github.com/droverhq/drover/control/api"
	"github.com/droverhq/drover/dataset"
)

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
	cmd.Flags().StringArrayVar(&p.Devices, "device", nil,
		"an empty block `DEVICE` of the server's host; repeatable")
	cmd.Flags().Float64Var(&p.Overcommit, "overcommit", 0,
		"refuse volumes whose sizes exceed the pool `RATIO` times")
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
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
		c, err := a.Connect()
		if err != nil {
			return err
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
	}
	return cmd
}
