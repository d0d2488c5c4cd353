package nodes

import (
	"context"
	"io"

	"github.com/spf13/cobra"

	"github.com/droverhq/drover/cmd/drover/internal/cli"
	"github.com/droverhq/drover/dataset"
)

func newStoreBackupCmd(a *cli.App) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "backup FILE",
		Short: "Back up the running store to a file",
		Long: `Back up the running store to a new file on this host. The copy is consistent. It
contains records, but no data of volumes. The records of a cluster are in
Consul: use consul snapshot save there.`,
		Args: cli.Args(1),
	}
	cmd.RunE = a.Connected(func(cmd *cobra.Command, c cli.Remote, args []string) error {
		ctx, stop := a.Signals(cmd.Context())
		defer stop()
		n, err := backUp(ctx, a, c, args[0])
		if err != nil && ctx.Err() != nil {
			return dataset.Errorf(dataset.ErrCancelled, "interrupted: no backup was written")
		}
		if err != nil {
			return err
		}
		return a.PrintLine("wrote %s (%s)", args[0], dataset.Size(n).Human())
	})
	return cmd
}

func backUp(ctx context.Context, a *cli.App, c cli.Remote, file string) (n int64, err error) {
	m := a.Meter("backup", !cli.IsTerminal(a.ErrOut))
	defer m.Close()
	w := &cli.Writer{Meter: m, At: dataset.Progress{Step: "copy the store"}}
	err = cli.Write("backup", file, func(f io.Writer) error {
		w.W = f
		if err := c.Backup(ctx, w); err != nil {
			return err
		}
		if w.At.Done == 0 {
			return dataset.Errorf(dataset.ErrCorrupt, "the server sent an empty backup")
		}
		return nil
	})
	return w.At.Done, err
}
