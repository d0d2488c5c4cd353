package volumes

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"strings"
	"time"

	"github.com/google/uuid"
	"github.com/spf13/cobra"

	"github.com/droverhq/drover/cmd/drover/internal/cli"
	"github.com/droverhq/drover/control/api"
	"github.com/droverhq/drover/dataset"
)

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
