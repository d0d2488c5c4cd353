package nodes

import (
	"context"
	"errors"
	"fmt"
	"io"

	"github.com/spf13/cobra"

	"github.com/droverhq/drover/cmd/drover/internal/cli"
	"github.com/droverhq/drover/cmd/drover/internal/daemon"
	"github.com/droverhq/drover/control/store/dump"
	"github.com/droverhq/drover/dataset"
)

func newStoreExportCmd(a *cli.App) *cobra.Command {
	var f daemon.Flags
	stored := fetching{app: a, flags: &f}
	cmd := &cobra.Command{
		Use:        "export [FILE]",
		SuggestFor: []string{"fetch"},
		Short:      "Export the records of a stopped store, or those in a repository",
		Long: `Export all records of the store that drover.yaml names, or of the one in the
state folder, to a new file on this host, or to standard output for -. The file
can be imported into another kind of store. The command reads the store
directly, so stop every drover that uses it: later changes would be missing. To
copy a running store, use drover store backup.

With --from, the command exports the newest records that control has stored in a
repository for backups. Without FILE, it lists them. --from is the URL of the
repository, as for drover repository add, with --password. Then no drover needs
to run: root of any host that has restic and the password can use it. --from can
also be the name of a repository that is recorded by the drover of this host.
--at uses the newest records that are not later than a time. If several clusters
have stored records in the repository, choose one with --cluster. If the pools
still exist, drover store recover --from-pools knows newer records.

The file contains no data of volumes. Each line is a record, in JSON. It is
complete only if the exit code is 0. drover store import imports it.`,
		Example: `  drover store export /var/backups/drover.jsonl
  drover store export - | gzip > drover.jsonl.gz
  drover store export --from offsite --at 2d records.jsonl`,
		Args: cli.Args(0),
	}
	f.OfStore(cmd.Flags())
	stored.add(cmd)
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		ctx, stop := a.Signals(cmd.Context())
		defer stop()
		if stored.from != "" {
			err := stored.run(ctx, args)
			if err != nil && ctx.Err() != nil {
				return dataset.Errorf(dataset.ErrCancelled, "interrupted: no file was written")
			}
			return err
		}
		if len(args) == 0 {
			return cli.UsageError(cmd, "missing argument: FILE")
		}
		sum, err := exportStore(ctx, a, f, args[0])
		if err != nil && ctx.Err() != nil {
			return dataset.Errorf(dataset.ErrCancelled, "interrupted: no export was written")
		}
		if err != nil {
			return err
		}
		if args[0] == "-" {
			return nil
		}
		return a.PrintLine("exported %s to %s", describeDump(sum), args[0])
	}
	return cmd
}

// describeDump describes the content of a dump.
func describeDump(s dump.Summary) string {
	return fmt.Sprintf("%d records of cluster %s, including %d volumes", s.Entries, s.Cluster, s.Volumes)
}

func exportStore(ctx context.Context, a *cli.App, f daemon.Flags, file string) (sum dump.Summary, err error) {
	st, err := openStore(ctx, a, f, false)
	if err != nil {
		return sum, err
	}
	defer func() { err = errors.Join(err, st.Close()) }()
	write := func(w io.Writer) error {
		sum, err = dump.Save(ctx, st, st.Kind, w)
		return err
	}
	if file == "-" {
		return sum, write(a.Out)
	}
	return sum, cli.Write("export", file, write)
}

// openStore opens the store that drover.yaml and the flags name.
func openStore(ctx context.Context, a *cli.App, f daemon.Flags, create bool) (daemon.Unserved, error) {
	log, err := daemon.NewLogger(f.Level, daemon.Auto, a.Getenv)
	if err != nil {
		return daemon.Unserved{}, err
	}
	o, err := f.Options(a, log)
	if err != nil {
		return daemon.Unserved{}, err
	}
	return daemon.OpenUnserved(ctx, o, create)
}
