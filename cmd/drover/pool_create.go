package main

import (
	"github.com/spf13/cobra"

	"github.com/droverhq/drover/cmd/drover/internal/show"
	"github.com/droverhq/drover/control/api"
	"github.com/droverhq/drover/dataset"
)

func newPoolCreateCmd(a *app) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "create NAME",
		Short: "Make a pool on the server's host",
		Long: `Make a pool on the server's host. What lies at PATH already is never touched:
a folder must be empty. With --image, PATH is a new file: a preallocated image
of that size, which holds the pool.`,
		Example: `  drover pool create fast --backend loop --path /mnt/xfs/drover
  drover pool create big --backend loop --path /var/lib/big.img --image 200GiB`,
		Args:              args(1),
		ValidArgsFunction: cobra.NoFileCompletions,
	}
	o := outputFlags(cmd, false)
	p := api.NewPool{}
	cmd.Flags().StringVar(&p.Backend, "backend", "", "the `KIND` of storage, such as loop or dir")
	cmd.Flags().StringVar(&p.Path, "path", "", "an absolute `PATH` on the server's host")
	cmd.Flags().StringVar(&p.Image, "image", "", "`SIZE` of an image file to make at PATH")
	completeFlag(cmd, "backend")
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		if p.Backend == "" || p.Path == "" {
			return usage(cmd, "a pool needs --backend KIND and --path PATH")
		}
		if p.Image != "" {
			if _, err := dataset.ParseSize(p.Image); err != nil {
				return err
			}
		}
		path, err := a.hostPath(p.Path)
		if err != nil {
			return err
		}
		p.Name, p.Path = args[0], path
		c, err := a.connect()
		if err != nil {
			return err
		}
		made, err := c.CreatePool(cmd.Context(), p)
		if err != nil {
			return err
		}
		if o.json() {
			return show.JSON(a.out, made)
		}
		if err := a.say("created pool %s: %s, backend %s at %s", made.Name, made.ID, made.Backend, made.Path); err != nil || made.Note == "" {
			return err
		}
		return a.say("%s", made.Note)
	}
	return cmd
}
