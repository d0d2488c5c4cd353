package nodes

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"

	"github.com/spf13/cobra"

	"github.com/droverhq/drover/cmd/drover/internal/cli"
	"github.com/droverhq/drover/cmd/drover/internal/daemon"
	"github.com/droverhq/drover/cmd/drover/internal/pools"
	"github.com/droverhq/drover/control/api"
	"github.com/droverhq/drover/control/store/dump"
	"github.com/droverhq/drover/dataset"
)

// StoreCommand makes drover store with its subcommands.
func StoreCommand(a *cli.App) *cobra.Command {
	return cli.Group(&cobra.Command{
		Use:   "store",
		Short: "Manage the store of the control service",
	},
		newStoreBackupCmd(a), newStoreExportCmd(a), newStoreImportCmd(a), newStoreRecoverCmd(a),
	)
}

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
		for _, name := range []string{"from", "at", "cluster", "password", "credentials-file"} {
			if cmd.Flags().Changed(name) && stored.from == "" {
				return cli.UsageError(cmd, "--%s needs --from REPOSITORY, the repository with the stored records", name)
			}
		}
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

func newStoreImportCmd(a *cli.App) *cobra.Command {
	var f daemon.Flags
	var force, dryRun bool
	cmd := &cobra.Command{
		Use:   "import FILE",
		Short: "Import exported records into an empty store",
		Long: `Import exported records into the store that drover.yaml names, or into the one
in the state folder, which is created if needed. The whole file is checked
before anything is written. The store must be empty, unless --force allows the
file to replace everything in it. The word replace must be typed to confirm
that, unless --yes is given. No drover may be running on the store. On a control
host the store is named in another file: use --config.

The cluster keeps its identity, so its nodes accept the new store. If the import
is interrupted, run it again to complete it; no drover starts on the store
before.`,
		Example: `  drover store import /var/backups/drover.jsonl
  drover store import /var/backups/drover.jsonl --config /etc/drover/control.yaml`,
		Args: cli.Args(1),
	}
	f.OfStore(cmd.Flags())
	cmd.Flags().BoolVar(&force, "force", false, "replace everything in the store")
	cmd.Flags().BoolVar(&dryRun, "dry-run", false, "show what would happen, and change nothing")
	yes := cli.AddFlag(cmd)
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		if dryRun {
			return previewImport(cmd.Context(), a, f, args[0], force)
		}
		if force {
			if err := yes.Ask(a, cli.Question{
				Action:  "import " + args[0],
				Effects: []string{"replaces every record in the store with those of the file"},
				Name:    "replace",
			}); err != nil {
				return err
			}
		}
		ctx, stop := a.Signals(cmd.Context())
		defer stop()
		sum, place, err := importStore(ctx, a, f, args[0], force)
		if err != nil && ctx.Err() != nil {
			return dataset.Errorf(dataset.ErrCancelled, "interrupted: run the import again to complete the store")
		}
		if err != nil {
			return err
		}
		return a.PrintLine("imported %s from %s into %s", describeDump(sum), args[0], place)
	}
	return cmd
}

// previewImport checks the file and the store as an import does. It creates no store.
func previewImport(ctx context.Context, a *cli.App, f daemon.Flags, file string, force bool) (err error) {
	in, err := os.Open(file)
	if err != nil {
		return err
	}
	defer in.Close()
	sum, err := dump.Check(in)
	if err != nil {
		return fmt.Errorf("%s: %w", file, err)
	}
	st, err := openStore(ctx, a, f, false)
	if errors.Is(err, dataset.ErrNotFound) {
		return a.PrintLine("dry run: would import %s from %s into a new store", describeDump(sum), file)
	}
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, st.Close()) }()
	if _, err := in.Seek(0, 0); err != nil {
		return fmt.Errorf("%s: %w (the file is read twice, so it cannot be a pipe)", file, err)
	}
	if sum, err = dump.PreviewLoad(ctx, st, in, force); err != nil {
		return err
	}
	what := "import"
	if force {
		what = "replace every record in the store, and import"
	}
	return a.PrintLine("dry run: would %s %s from %s into %s", what, describeDump(sum), file, st.Where)
}

func importStore(ctx context.Context, a *cli.App, f daemon.Flags, file string, force bool) (sum dump.Summary,
	place string, err error) {
	in, err := os.Open(file)
	if err != nil {
		return sum, "", err
	}
	defer in.Close()
	// Check the dump before a store is created for it.
	if _, err := dump.Check(in); err != nil {
		return sum, "", fmt.Errorf("%s: %w", file, err)
	}
	if _, err := in.Seek(0, 0); err != nil {
		return sum, "", fmt.Errorf("%s: %w (the file is read twice, so it cannot be a pipe)", file, err)
	}
	st, err := openStore(ctx, a, f, true)
	if err != nil {
		return sum, "", err
	}
	defer func() { err = errors.Join(err, st.Close()) }()
	sum, err = dump.Load(ctx, st, in, force)
	return sum, st.Where, err
}

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

func newStoreRecoverCmd(a *cli.App) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "recover",
		Short: "Update a store that lost records or was restored from a backup",
		Long: `With --from-pools, restore the records that the store lost from the pools of the
server's host. Every dataset has a copy of its record beside its data. Existing
records are not changed, unless the record beside the data is newer, and a name
that is taken stays with its volume. What is in the trash gets its whole time
again. --dry-run shows the outcome for each dataset.

Without it, update a cluster's store that was restored from a backup, such as a
snapshot of Consul, with what the agents know. The command asks every agent for
its records, prints the differences to the store, and names the nodes that did
not respond. After a confirmation (type recover, or use --yes) it writes the
newer records into the store, and resumes decisions. If it is interrupted, run
it again. A dry run asks no agent: it uses the records that were collected
within the last hour, by a run that was not confirmed. With -o json, the command
never asks: without --yes it prints the differences, writes nothing and fails.

If two nodes claim the same volume, an operator must decide: --fenced NODE
confirms that a node, which must not be alive, writes no more. Its claims end.
If other nodes know that a volume was there, it can continue from a copy: drover
volume move --force --fenced.`,
		Example: "  drover store recover --from-pools --dry-run\n  drover store recover\n" +
			"  drover store recover --yes --fenced host-c",
		Args:              cli.Args(0),
		ValidArgsFunction: cobra.NoFileCompletions,
	}
	o := cli.OutputFlags(cmd, true)
	yes := cli.AddFlag(cmd)
	var in api.Recover
	var fromPools bool
	var rebuild api.RebuildStore
	cmd.Flags().BoolVar(&fromPools, "from-pools", false, "restore lost records from the pools of the server's host")
	cmd.Flags().BoolVar(&rebuild.SkipOffline, "skip-offline", false,
		"with --from-pools: ignore offline pools; the names of their volumes can then be taken by others")
	cmd.Flags().StringArrayVar(&in.FencedNodes, "fenced", nil, "confirm that this `NODE` is fenced and writes no more")
	cli.DryRunFlag(cmd, o)
	cmd.RunE = a.Connected(func(cmd *cobra.Command, c cli.Remote, _ []string) error {
		in.DryRun, rebuild.DryRun = o.DryRun, o.DryRun
		switch {
		case fromPools && len(in.FencedNodes) > 0:
			return cli.UsageError(cmd, "--fenced is for a recovery without --from-pools")
		case fromPools:
			return rebuildStore(cmd.Context(), a, c, o, rebuild)
		case rebuild.SkipOffline:
			return cli.UsageError(cmd, "--skip-offline requires --from-pools")
		}
		return recoverStore(cmd.Context(), a, c, o, in, yes)
	})
	return cmd
}

func recoverStore(ctx context.Context, a *cli.App, c cli.Remote, o *cli.Output, in api.Recover, yes *cli.Flag) error {
	found, err := c.Recover(ctx, in)
	if err != nil {
		return err
	}
	if o.JSON() && (!yes.Given() || o.DryRun || found.Halted == "") {
		if err := cli.JSON(a.Out, found); err != nil || o.DryRun || found.Halted == "" {
			return err
		}
		return dataset.Errorf(dataset.ErrInvalid, "nothing was changed: store recover with -o json does not ask, and "+
			"writes only with --yes (--dry-run prints the same without this error)")
	}
	if found.Halted == "" {
		return a.PrintLine("the store is consistent: nothing to update")
	}
	if !o.JSON() {
		if err := printRecovery(a, found); err != nil {
			return err
		}
	}
	if o.DryRun {
		return a.PrintLine("dry run: would write these differences into the store, and resume decisions")
	}
	if err := yes.Ask(a, recoverQuestion(found)); err != nil {
		return err
	}
	in.Digest = found.Digest
	done, err := c.Recover(ctx, in)
	if err != nil {
		return err
	}
	return a.PrintResult(o, done, "the store is up to date: decisions resume")
}

// RecoverWord is the word that an operator types to confirm a recovery.
const RecoverWord = "recover"

// recoverQuestion says how many records a recovery changes, and which nodes did not respond.
func recoverQuestion(r api.Recovery) cli.Question {
	q := cli.Question{Action: "recover the store", Name: RecoverWord, Effects: []string{
		"writes " + cli.Count(len(r.Differences), "difference") + " into the store and resumes decisions",
	}}
	if len(r.SilentNodes) > 0 {
		q.Effects = append(q.Effects, "the records of nodes that did not respond are missing: "+
			strings.Join(r.SilentNodes, ", "))
	}
	return q
}

// printRecovery prints the changes that a person must confirm.
func printRecovery(a *cli.App, r api.Recovery) error {
	if err := a.PrintLine("%s", r.Halted); err != nil {
		return err
	}
	if err := a.PrintLine("nodes that responded: %s", orNone(r.ReportedNodes)); err != nil {
		return err
	}
	err := a.PrintLine("nodes that did NOT respond, so that their records are missing: %s", orNone(r.SilentNodes))
	if err != nil {
		return err
	}
	if len(r.Differences) == 0 {
		return a.PrintLine("no differences")
	}
	t := cli.NewTable("VOLUME", "DATASET", "STORE", "AGENTS", "ACTION", "NOTE")
	for _, d := range r.Differences {
		t.Row(cli.ShortName(d.Volume), d.Dataset.String()[:8], d.InStore, d.OnAgents, string(d.Action), d.Note)
	}
	return t.Write(a.Out)
}

func orNone(names []string) string {
	if len(names) == 0 {
		return "none"
	}
	return strings.Join(names, ", ")
}
