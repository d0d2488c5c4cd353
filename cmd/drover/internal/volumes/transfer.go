package volumes

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/google/uuid"
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

func newVolumeImportCmd(a *cli.App) *cobra.Command {
	cmd := &cobra.Command{
		Use:        "import SPEC",
		SuggestFor: []string{"load", "receive"},
		Short:      "Create a volume from a folder, a Docker volume or a tar archive",
		Long: `Create a volume and copy data into it: a folder of this host, a volume of
Docker's driver local (docker:VOLUME), or a tar archive: FILE.tar of this host,
or on standard input (-).
Owners, modes, extended attributes, hard links and holes are kept. The source is
not changed. A folder with another filesystem mounted in it is refused, because
the copy would be incomplete. A folder that contains a pool or Drover's root
folder, or is inside one, is refused, because the copy would copy itself.

As with drover volume create, the size is that of -o size or of the profile. If
neither has one, the volume can get as large as its pool.

A copy of a database is useless if its data changes meanwhile: stop all
writers, or use --live to copy anyway.`,
		Example: `  drover volume import db@gold --from /srv/mysql
  drover volume import db@gold --from docker:myproject_db
  gunzip < db.tar.gz | drover volume import db@gold --from -`,
		ValidArgsFunction: cli.Complete(a, cli.NewVolumeWords),
	}
	o, opts := cli.MakeFlags(cmd)
	cli.DetachFlag(cmd, o)
	cmd.Args = makeArgs(1, opts)
	var from string
	var live bool
	cmd.Flags().StringVar(&from, "from", "", "a `PATH` on the server's host, docker:VOLUME, FILE.tar, or - "+
		"for a tar archive on standard input")
	cmd.Flags().BoolVar(&live, "live", false, "copy even if the source may change")
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		if _, help := opts["help"]; help {
			return printOptionHelp(a, cmd)
		}
		req := api.Request{Kind: dataset.OpImport, Volume: args[0], Options: opts, Live: live}
		switch {
		case from == "" || from == "docker:":
			return cli.UsageError(cmd, "missing source: --from PATH, --from FILE.tar, --from docker:VOLUME or --from -")
		case from == "-" && o.Detach:
			return cli.UsageError(cmd, "--detach and --from - exclude each other: this command sends the archive")
		case from == "-" && live:
			return cli.UsageError(cmd, "--live and --from - exclude each other")
		case from == "-" && cli.IsTerminal(a.In):
			return cli.UsageError(cmd, "standard input is a terminal and not a tar archive (use drover volume "+
				"import %s --from - < FILE)", args[0])
		case from == "-":
			return importTar(cmd.Context(), a, o, req, a.In)
		case isArchive(a, from) && !o.Detach && !live:
			f, err := os.Open(from)
			if err != nil {
				return err
			}
			return errors.Join(importTar(cmd.Context(), a, o, req, f), f.Close())
		}
		var err error
		from = strings.TrimPrefix(from, "file://")
		if req.Path, err = sourcePath(cmd.Context(), a, args[0], from, live); err != nil {
			return err
		}
		return a.Change(cmd, o, req, describeMade("imported"))
	}
	return cmd
}

// sourcePath returns the folder to import into the volume spec, on the server's host.
func sourcePath(ctx context.Context, a *cli.App, spec, from string, live bool) (string, error) {
	volume, docker := strings.CutPrefix(from, "docker:")
	if !docker {
		if err := checkFolder(a, spec, from); err != nil {
			return "", err
		}
		return a.HostPath(from)
	}
	if !a.SameHost() {
		return "", dataset.Errorf(dataset.ErrUnsupported,
			"--from %s is a volume of this host, and the server at %s may be on another (run drover there, or "+
				"pipe a tar archive into --from -)", from, a.Address())
	}
	return a.DockerPath(ctx, volume, live)
}

// checkFolder fails if a path of this host is not a folder but a file, or is a name without a slash that does not
// exist. The error names the two other forms of --from: "-" for an archive on standard input, and docker:NAME for a
// Docker volume. The server checks all other paths.
func checkFolder(a *cli.App, spec, from string) error {
	if !a.SameHost() {
		return nil
	}
	info, err := os.Stat(from)
	switch {
	case err == nil && info.IsDir():
		return nil
	case err == nil && strings.HasSuffix(from, "gz"):
		return dataset.Errorf(dataset.ErrInvalid,
			"--from %s: it is a file, and not a folder (for a tar archive: gunzip < %[1]s | drover volume import "+
				"%[2]s --from -)", dataset.Clip(from), dataset.Clip(spec))
	case err == nil:
		return dataset.Errorf(dataset.ErrInvalid,
			"--from %s: it is a file, and not a folder (for a tar archive: drover volume import %[2]s --from - "+
				"< %[1]s)", dataset.Clip(from), dataset.Clip(spec))
	case errors.Is(err, fs.ErrNotExist) && !strings.Contains(from, "/"):
		return dataset.Errorf(dataset.ErrInvalid,
			"--from %s: no such folder (for the Docker volume of this name: --from docker:%[1]s)", dataset.Clip(from))
	}
	return nil // the server finds out
}

// isArchive reports whether a path names a tar archive of this host, judged by its name.
func isArchive(a *cli.App, path string) bool {
	info, err := os.Stat(path)
	return err == nil && a.SameHost() && info.Mode().IsRegular() && strings.HasSuffix(path, ".tar")
}

// importTar imports a tar archive from in.
func importTar(ctx context.Context, a *cli.App, o *cli.Output, req api.Request, in io.Reader) error {
	c, err := a.Connect()
	if err != nil {
		return err
	}
	ctx, stop := a.Signals(ctx)
	defer stop()
	req.ID = a.NewID()
	m := a.Meter("import "+req.Volume, o.Quiet)
	d, err := c.Import(ctx, req, &cli.Reader{
		R: in, Meter: m, At: dataset.Progress{Step: "sending the archive", Total: Left(in)},
	})
	m.Close()
	switch {
	case err != nil && ctx.Err() != nil:
		// The server notices a closed connection only when it reads from it.
		cancelling, end := context.WithTimeout(context.WithoutCancel(ctx), 5*time.Second)
		defer end()
		_, _ = c.CancelOperation(cancelling, req.ID.String()) // an operation that is not recorded ends by itself
		return dataset.Errorf(dataset.ErrCancelled,
			"interrupted: the import was cancelled (if it had just ended, drover volume ls lists the volume)")
	case err != nil:
		return err
	}
	out := api.Outcome{Volume: &api.Volume{Dataset: d}}
	// The import has succeeded, whether or not its result can be read.
	if v, err := c.Volume(ctx, d.ID.String()); err == nil {
		out.Volume = &v
	}
	return a.Report(o, out, func(api.Outcome) (uuid.UUID, string) {
		size := ""
		if d.Size > 0 {
			size = ", " + d.Size.Readable()
		}
		return d.ID, fmt.Sprintf("imported volume %s: dataset %s, profile %s%s", d.Volume, d.ID, d.Profile.Name, size)
	})
}

// Left returns how many bytes can still be read from in. If in is not a file, it returns 0.
func Left(in io.Reader) int64 {
	f, ok := in.(*os.File)
	if !ok {
		return 0
	}
	info, err := f.Stat()
	if err != nil || !info.Mode().IsRegular() {
		return 0
	}
	at, err := f.Seek(0, io.SeekCurrent)
	if err != nil {
		return 0
	}
	return max(0, info.Size()-at)
}

func newVolumeMoveCmd(a *cli.App) *cobra.Command {
	cmd := &cobra.Command{
		Use:        "move NAME NODE",
		SuggestFor: []string{"mv", "migrate"},
		Short:      "Move a volume to another node",
		Long: `Move a volume to another node, its new home. Most data is copied while the
volume is in use. Then it must be unmounted for a moment. A volume that stays in
use is not moved, and the error names its users.

If the home is lost, use --force and --fenced NODE: the volume continues from
the copy on the target. Data that was written after that copy was taken is
missing; the command prints the time of the copy first. --fenced confirms that
the node writes to the volume no more: it is off, or cut off for good. This
requires the role admin. If the node returns later, its data becomes a
superseded copy.`,
		Example: `  drover volume move db host-b
  drover volume move db host-b --force --fenced host-a`,
		Args:              cli.Args(2),
		ValidArgsFunction: cli.Complete(a, cli.VolumeWords, cli.NodeWords),
	}
	o := cli.WorkFlags(cmd, false)
	req := api.Request{Kind: dataset.OpMove}
	cmd.Flags().BoolVar(&req.Force, "force", false, "continue without the home, from the copy on the target")
	cmd.Flags().StringVar(&req.Fenced, "fenced", "", "confirm that the home `NODE` is fenced and writes no more")
	cli.DryRunFlag(cmd, o)
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		req.Volume, req.Node = args[0], args[1]
		if req.Force {
			if err := printLoss(cmd.Context(), a, req); err != nil {
				return err
			}
		}
		err := a.Change(cmd, o, req, func(out api.Outcome) (uuid.UUID, string) {
			d := cli.MadeDataset(out)
			if o.DryRun {
				return d.ID, wouldMove(out, args[1])
			}
			line := fmt.Sprintf("volume %s is on node %s%s", d.Volume, args[1], unchangedNote(out))
			if out.Operation != nil && out.Operation.Loss != nil {
				line += ", without the data written since " + cli.When(a.Now(), out.Operation.Loss.Taken)
			}
			return d.ID, line
		})
		return explainPool(cmd.Context(), a, req, err)
	}
	return cmd
}

// explainPool returns a clearer error if a move failed because its target is a pool, and no node. Otherwise it returns
// err.
func explainPool(ctx context.Context, a *cli.App, req api.Request, err error) error {
	name := strings.TrimPrefix(req.Node, "pool=")
	if !errors.Is(err, dataset.ErrInvalid) {
		return err
	}
	c, dialErr := a.Connect()
	if dialErr != nil {
		return err
	}
	pools, poolsErr := c.Pools(ctx)
	nodes, nodesErr := c.NodeList(ctx, "")
	from, fromErr := c.Volume(ctx, req.Volume)
	isPool := slices.ContainsFunc(pools, func(p api.Pool) bool { return p.Name == name })
	isNode := slices.ContainsFunc(nodes, func(n api.Node) bool { return n.Name == name })
	if errors.Join(poolsErr, nodesErr, fromErr) != nil || !isPool || isNode {
		return err // as the server said
	}
	return dataset.Errorf(dataset.KindOf(err), "%s is a pool, and volume %s moves only to another node (for a full "+
		"copy in that pool: drover volume export %[2]s | drover volume import NEW@%[3]s -o pool=%[1]s --from "+
		"-)", name, req.Volume, from.Profile.Name)
}

// wouldMove says what a move would do.
func wouldMove(out api.Outcome, target string) string {
	v := cli.MadeDataset(out)
	switch {
	case out.Operation == nil:
		return fmt.Sprintf("nothing to do: volume %s is on node %s already", v.Volume, target)
	case out.Volume == nil:
		return fmt.Sprintf("would move volume %s to node %s", v.Volume, target)
	case out.Operation.Loss != nil:
		return fmt.Sprintf("would continue volume %s on node %s from its copy, without node %s", v.Volume, target,
			out.Volume.Node)
	}
	line := fmt.Sprintf("would move volume %s from node %s to node %s", v.Volume, out.Volume.Node, target)
	if s := out.Volume.Status; s != nil && len(s.Mounts) > 0 {
		line += "; it is in use, and must be unmounted before the end of the move"
	}
	return line
}

// printLoss prints which data a move without the home would lose, before the move.
func printLoss(ctx context.Context, a *cli.App, req api.Request) error {
	c, err := a.Connect()
	if err != nil {
		return err
	}
	v, err := c.Volume(ctx, req.Volume)
	if err != nil {
		return err
	}
	for _, k := range v.CopyDetails {
		if k.NodeName != req.Node && k.Node.String() != req.Node || k.Snapshot == uuid.Nil {
			continue
		}
		_, err := fmt.Fprintf(a.ErrOut, "drover: the copy of volume %s on node %s was taken %s: data that node "+
			"%s wrote later is missing\n", v.Volume, k.NodeName, cli.When(a.Now(), k.Taken), v.Node)
		return err
	}
	return nil // that node has no data: the response of the server says so
}
