package volumes

import (
	"context"
	"fmt"
	"io"
	"strings"

	"github.com/spf13/cobra"

	"github.com/droverhq/drover/cmd/drover/internal/cli"
	"github.com/droverhq/drover/control/api"
	"github.com/droverhq/drover/dataset"
)

func newVolumeExportCmd(a *cli.App) *cobra.Command {
	cmd := &cobra.Command{
		Use:        "export NAME",
		SuggestFor: []string{"save", "dump", "send"},
		Short:      "Write a volume, or a snapshot of it, as a tar archive",
		Long: `Write a volume, or a snapshot of it, as a tar archive to standard output, or
with -o to a new file, which appears when it is complete. The archive has the
content at one moment, also while the volume is in use, if its pool takes
snapshots without copying. Tar has no sockets: they are left out, and listed on
standard error. The archive is complete only if the exit code is 0.`,
		Example: `  drover volume export db -o db.tar
  drover volume export db --snapshot before-upgrade | zstd > db.tar.zst`,
		Args:              cli.Args(1),
		ValidArgsFunction: cli.Complete(a, cli.VolumeWords),
	}
	var snapshot, file string
	cmd.Flags().StringVar(&snapshot, "snapshot", "",
		"the snapshot to write, by `NAME` or UUID, instead of the current data")
	cmd.Flags().StringVarP(&file, "output", "o", "", "write to a new `FILE` instead of standard output")
	snapshotFlag(a, cmd, "snapshot")
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		toFile := file != "" && file != "-"
		switch {
		case cmd.Flags().Changed("output") && file == "":
			return cli.UsageError(cmd, "-o is empty: expected a file")
		case toFile && strings.HasSuffix(file, "gz"):
			return cli.UsageError(cmd, "-o %q: the archive is not compressed (use drover volume export %s | gzip "+
				"> %[1]s)", file, args[0])
		case file == "json" || file == "table":
			return cli.UsageError(cmd, "-o %s: here -o is the file of the archive (use -o ./%[1]s for a file of that "+
				"name)", file)
		case !toFile && cli.IsTerminal(a.Out):
			return cli.UsageError(cmd, "standard output is a terminal, and a tar archive is binary (use drover "+
				"volume export %s -o %s.tar)", args[0], args[0])
		}
		c, err := a.Connect()
		if err != nil {
			return err
		}
		// Without a total there is nothing that lines could show.
		m := a.Meter("export "+args[0], !cli.IsTerminal(a.ErrOut))
		defer m.Close()
		w := &cli.Writer{W: a.Out, Meter: m, At: dataset.Progress{Step: "write the archive"}}
		var leftOut api.OmittedFiles
		export := func(to io.Writer) (err error) {
			w.W = to
			leftOut, err = c.Export(cmd.Context(), args[0], snapshot, w)
			return withSnapshotFlag(cmd.Context(), c, err, args[0], snapshot)
		}
		if toFile {
			err = cli.Write("export", file, export)
		} else {
			err = export(a.Out)
		}
		m.Close()
		if err == nil && leftOut.Count > 0 {
			_, err = fmt.Fprintf(a.ErrOut, "drover: %s\n", describeLeftOut(leftOut))
		}
		if err == nil && toFile {
			return a.PrintLine("exported volume %s to %s: %s", args[0], file, dataset.Size(w.At.Done).Human())
		}
		return err
	}
	return cmd
}

// withSnapshotFlag returns the error of an export. If VOLUME@SNAPSHOT was typed, as drover clone accepts it, the error
// shows the right form.
func withSnapshotFlag(ctx context.Context, c cli.Remote, err error, ref, snapshot string) error {
	volume, after, at := strings.Cut(ref, "@")
	if err == nil || !at || snapshot != "" {
		return err
	}
	if _, findErr := c.Snapshot(ctx, volume, after); findErr != nil {
		return err
	}
	return dataset.Errorf(dataset.KindOf(err), "%s is a snapshot (use drover volume export %s --snapshot %[1]s)", after,
		volume)
}

// describeLeftOut returns a line about the files that an archive lacks.
func describeLeftOut(l api.OmittedFiles) string {
	var names []string
	for _, path := range l.First {
		names = append(names, cli.Clean(path))
	}
	subject, more := "1 socket was", ""
	if l.Count > 1 {
		subject = fmt.Sprintf("%d sockets were", l.Count)
	}
	if l.Count > len(names) {
		more = fmt.Sprintf(" and %d more", l.Count-len(names))
	}
	return fmt.Sprintf("%s left out of the archive, because tar does not support sockets: %s%s", subject,
		strings.Join(names, ", "), more)
}

// snapshotFlag completes a flag with the snapshots of the volume that the first
// argument names.
func snapshotFlag(a *cli.App, cmd *cobra.Command, name string) {
	cobra.CheckErr(cmd.RegisterFlagCompletionFunc(name,
		func(cmd *cobra.Command, given []string, begun string) ([]string, cobra.ShellCompDirective) {
			if len(given) == 0 {
				return cli.Complete(a, cli.SnapshotWords)(cmd, nil, begun)
			}
			return cli.Complete(a, cli.NoWords, cli.SnapshotWords)(cmd, given[:1], begun)
		}))
}
