package status

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"context"
	"errors"
	"fmt"
	"io"
	"path"
	"path/filepath"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/droverhq/drover/cmd/drover/internal/cli"
	"github.com/droverhq/drover/dataset"
)

// The limits of the time that a bundle takes if the server does not answer.
const (
	partTimeout = 30 * time.Second
	allTimeout  = 3 * time.Minute
)

// RunCommand runs a command of drover in this process, with its output to out and its errors and notes to notes.
type RunCommand func(ctx context.Context, out, notes io.Writer, args ...string) error

// BundleCommand makes drover support-bundle.
func BundleCommand(a *cli.App, run RunCommand, host Host) *cobra.Command {
	cmd := &cobra.Command{
		Use:        "support-bundle",
		SuggestFor: []string{"report", "support"},
		Short:      "Collect status, lists, events, settings and log in one file",
		Long: `Collect what somebody needs who looks into a problem, in a new tar archive: the
output of version, status, doctor, volume ls, operation ls and events,
drover.yaml and profiles.yaml without their comments, the end of the
log, and the versions of the kernel and the engine. Run it as root on the host
that has the problem.

A part that cannot be collected does not end the command: it is named on
standard error and in errors.txt of the archive.

Passwords, tokens, private keys and the user information of URLs are replaced
by [redacted]. Names of volumes and hosts, paths, addresses and labels stay:
look at the archive before you give it to somebody. It contains no data of
volumes. Only you can read the file.`,
		Example: `  drover support-bundle
  drover support-bundle -o /root/ticket-4711.tar.gz`,
		Args:              cli.Args(0),
		ValidArgsFunction: cobra.NoFileCompletions,
	}
	var file string
	cmd.Flags().StringVarP(&file, "output", "o", "",
		"write to this new `FILE` (default: drover-support-TIME.tar.gz in the current directory)")
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		now := a.Now().UTC()
		name := "drover-support-" + now.Format("20060102T150405Z")
		switch {
		case !cmd.Flags().Changed("output"):
			file = name + ".tar.gz"
		case file == "":
			return cli.UsageError(cmd, "-o is empty: expected a file")
		case file == "json" || file == "table" || file == "-":
			return cli.UsageError(cmd, "-o %s: here -o is the file of the archive (use -o ./%[1]s for a file of that "+
				"name)", file)
		}
		if _, err := a.Connect(); err != nil { // a bad address; a server that does not answer is a part of the bundle
			return err
		}
		ctx, stop := a.Signals(cmd.Context())
		defer stop()
		if host.Socket == "" && a.SameHost() {
			host.Socket = strings.TrimPrefix(strings.TrimPrefix(a.Address(), "unix:"), "//")
		}
		b := bundle{dir: name, now: now}
		err := cli.Write("support bundle", file, func(w io.Writer) error { return b.write(ctx, w, run, host) })
		if err != nil {
			return err
		}
		b.print(a.ErrOut)
		if abs, err := filepath.Abs(file); err == nil {
			file = abs
		}
		text := "everything was collected"
		if n := len(b.problems); n > 0 {
			text = fmt.Sprintf("%d of %d parts are missing or incomplete (see errors.txt in it)", n, b.parts)
		}
		return a.PrintLine("wrote %s: %s", file, text)
	}
	return cmd
}

// A commandPart is a file of the bundle with the output of a command.
type commandPart struct {
	file string
	args []string
}

// commandParts are the commands whose output is in the bundle. None of them reads a repository, which can be slow.
var commandParts = []commandPart{
	{"version.json", []string{"version", "-o", "json"}},
	{"status.txt", []string{"status", "--verbose"}},
	{"doctor.txt", []string{"doctor", "--verbose"}},
	{"volumes.json", []string{"volume", "ls", "-o", "json"}},
	{"operations.json", []string{"operation", "ls", "-o", "json"}},
	{"events.json", []string{"events", "-o", "json"}},
}

// A bundle is an archive while it is written.
type bundle struct {
	dir      string // of all files in the archive
	now      time.Time
	parts    int
	problems []problem
	archive  *tar.Writer
}

// write collects all parts and writes the archive. It fails only if the archive cannot be written, or if the user
// interrupts it.
func (b *bundle) write(ctx context.Context, w io.Writer, run RunCommand, host Host) error {
	zip := gzip.NewWriter(w)
	b.archive = tar.NewWriter(zip)
	limited, cancel := context.WithTimeout(ctx, allTimeout)
	defer cancel()
	parts := append(host.parts(), partsOf(run)...)
	b.parts = len(parts)
	for _, part := range parts {
		partCtx, done := context.WithTimeout(limited, partTimeout)
		content, reason := part.collect(partCtx)
		done()
		if ctx.Err() != nil {
			return errors.New("interrupted: no file was written")
		}
		content, err := redactPart(part.file, content)
		if reason = errors.Join(reason, err); reason != nil {
			b.problems = append(b.problems, newProblem(part.file, reason))
		}
		if err := b.add(part.file, content); err != nil {
			return err
		}
	}
	if len(b.problems) > 0 {
		var text bytes.Buffer
		for _, p := range b.problems {
			fmt.Fprintf(&text, "%s: %s\n", p.file, p.reason)
		}
		if err := b.add("errors.txt", text.Bytes()); err != nil {
			return err
		}
	}
	return errors.Join(b.archive.Close(), zip.Close())
}

// A problem says why a part is missing or incomplete, in one line without secrets.
type problem struct{ file, reason string }

func newProblem(file string, err error) problem {
	return problem{file, cli.Clean(string(Redact([]byte(strings.ReplaceAll(err.Error(), "\n", "; ")))))}
}

// print prints the problems. Parts with the same reason share a line: all commands fail alike if no server answers.
func (b *bundle) print(w io.Writer) {
	files := map[string][]string{}
	var reasons []string
	for _, p := range b.problems {
		if files[p.reason] == nil {
			reasons = append(reasons, p.reason)
		}
		files[p.reason] = append(files[p.reason], p.file)
	}
	for _, reason := range reasons {
		_, _ = fmt.Fprintf(w, "drover: not complete: %s: %s\n", strings.Join(files[reason], ", "), reason)
	}
}

// redactPart returns the content of a file without its secrets.
func redactPart(file string, content []byte) ([]byte, error) {
	if strings.HasSuffix(file, ".yaml") {
		return RedactYAML(content)
	}
	return Redact(content), nil
}

// add writes a file without secrets to the archive. It writes no empty file.
func (b *bundle) add(file string, content []byte) error {
	if len(content) == 0 {
		return nil
	}
	err := b.archive.WriteHeader(&tar.Header{
		Name:    path.Join(b.dir, file),
		Mode:    0o600,
		Size:    int64(len(content)),
		ModTime: b.now,
		Format:  tar.FormatPAX,
	})
	if err == nil {
		_, err = b.archive.Write(content)
	}
	return err
}

// A part is a file of the bundle. collect returns its content, and why the content is missing or incomplete.
type part struct {
	file    string
	collect func(context.Context) ([]byte, error)
}

// partsOf returns the parts that are the output of commands.
func partsOf(run RunCommand) (parts []part) {
	for _, p := range commandParts {
		parts = append(parts, part{p.file, func(ctx context.Context) ([]byte, error) {
			var out, notes bytes.Buffer
			err := run(ctx, &out, &notes, p.args...)
			if cli.IsVerdict(err) { // the findings are in the output
				err = nil
			}
			if errors.Is(err, context.DeadlineExceeded) || errors.Is(err, context.Canceled) {
				err = dataset.Errorf(dataset.ErrUnavailable, "not complete in time: %w", err)
			}
			if note := strings.TrimSpace(notes.String()); note != "" {
				err = errors.Join(err, errors.New(strings.TrimPrefix(note, "drover: ")))
			}
			return out.Bytes(), err
		}})
	}
	return parts
}
