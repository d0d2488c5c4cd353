package main

import (
	"github.com/spf13/cobra"

	"github.com/droverhq/drover/cmd/drover/internal/progress"
	"github.com/droverhq/drover/dataset"
)

func newVolumeExportCmd(a *app) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "export NAME",
		Short: "Write a volume, or a snapshot of it, as a tar archive to standard output",
		Long: `Write a volume, or a snapshot of it, as a tar archive to standard output.
A volume is written as it is at one moment, while it is in use too, where its
pool takes snapshots without copying. Only an exit code of 0 means that the
archive is whole.`,
		Example: `  drover volume export db > db.tar
  drover volume export db --snapshot before-upgrade | zstd > db.tar.zst`,
		Args:              args(1),
		ValidArgsFunction: complete(a, volumeWords),
	}
	var snapshot string
	cmd.Flags().StringVar(&snapshot, "snapshot", "", "the snapshot to write, by `NAME` or UUID, instead of what is there now")
	snapshotFlag(a, cmd, "snapshot")
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		if terminal(a.out) {
			return usage(cmd, "standard output is a terminal, not written to with a tar archive (say drover volume export %s > %s.tar)", args[0], args[0])
		}
		c, err := a.connect()
		if err != nil {
			return err
		}
		// With no total there is nothing that lines could tell.
		m := a.meter("export "+args[0], !terminal(a.errOut))
		defer m.Close()
		w := &progress.Writer{W: a.out, Meter: m, At: dataset.Progress{Step: "write the archive"}}
		return c.Export(cmd.Context(), args[0], snapshot, w)
	}
	return cmd
}

// snapshotFlag completes a flag with the snapshots of the volume that the first
// argument names.
func snapshotFlag(a *app, cmd *cobra.Command, name string) {
	cobra.CheckErr(cmd.RegisterFlagCompletionFunc(name, func(cmd *cobra.Command, given []string, begun string) ([]string, cobra.ShellCompDirective) {
		if len(given) == 0 {
			return complete(a, snapshotWords)(cmd, nil, begun)
		}
		return complete(a, nothing, snapshotWords)(cmd, given[:1], begun)
	}))
}
