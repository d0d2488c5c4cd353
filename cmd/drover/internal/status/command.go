package status

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"os"
	"path"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"

	"github.com/droverhq/drover/cmd/drover/internal/cli"
	"github.com/droverhq/drover/cmd/drover/internal/settings"
	"github.com/droverhq/drover/dataset"
	"github.com/droverhq/drover/internal/run"
	"github.com/droverhq/drover/internal/socket"
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
			b.problems = append(b.problems, problem{part.file,
				cli.Clean(string(Redact([]byte(strings.ReplaceAll(reason.Error(), "\n", "; ")))))})
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

// The limits of the parts about the host.
const (
	maxLog       = 2 << 20 // bytes of the end of a log file
	maxFile      = 1 << 20 // bytes of a file of settings
	journalLines = 5000
)

// Host has the places from which the parts about this host are collected. A zero field means that its part cannot be
// collected.
type Host struct {
	Proc   string // the proc filesystem
	Socket string // of the API's server, if it is on this host. If it is empty, the command sets it.
	// Config and Profiles are the files of a server whose command line does not name others.
	Config, Profiles string
	Runner           run.Runner
	EngineVersion    func(context.Context) (string, error)
}

// ThisHost returns the places of the host on which the command runs.
func ThisHost(engineVersion func(context.Context) (string, error)) Host {
	return Host{
		Proc:          "/proc",
		Config:        settings.DefaultConfig,
		Profiles:      settings.DefaultProfiles,
		Runner:        &run.System{},
		EngineVersion: engineVersion,
	}
}

func (h Host) parts() []part {
	dir, args, err := h.server()
	file := func(flag, standard string) func(context.Context) ([]byte, error) {
		return func(context.Context) ([]byte, error) { return readSettings(dir, args, flag, standard) }
	}
	return []part{
		{"host.txt", func(ctx context.Context) ([]byte, error) { return h.facts(ctx, args, err) }},
		{"drover.yaml", file("config", h.Config)},
		{"profiles.yaml", file("profiles", h.Profiles)},
		{"log.txt", func(ctx context.Context) ([]byte, error) { return h.log(ctx, dir) }},
	}
}

// server returns the folder in the proc filesystem, and the command line, of the process that listens on the socket of
// the API.
func (h Host) server() (dir string, args []string, err error) {
	if h.Socket == "" {
		return "", nil, errors.New("the server is not on this host")
	}
	conn, err := net.DialTimeout("unix", h.Socket, time.Second)
	if err != nil {
		return "", nil, err
	}
	defer conn.Close()
	cred, err := socket.Peer(conn.(*net.UnixConn))
	if err != nil {
		return "", nil, err
	}
	if cred.Pid <= 1 { // 0: in another PID namespace; 1: systemd, which listens for a socket unit
		return "", nil, fmt.Errorf("process %d listens on %s", cred.Pid, h.Socket)
	}
	dir = filepath.Join(h.Proc, strconv.Itoa(int(cred.Pid)))
	line, err := os.ReadFile(filepath.Join(dir, "cmdline"))
	if err != nil {
		return "", nil, err
	}
	return dir, strings.Split(strings.TrimRight(string(line), "\x00"), "\x00"), nil
}

// readSettings returns the file that a flag of the server names, or the default, which is optional. It reads the file
// that the server sees: a server in a container has its own root directory, out of which no symbolic link leads.
func readSettings(dir string, args []string, flag, standard string) ([]byte, error) {
	file := standard
	for i, arg := range args {
		if v, ok := strings.CutPrefix(arg, "--"+flag+"="); ok {
			file = v
		} else if arg == "--"+flag && i+1 < len(args) {
			file = args[i+1]
		}
	}
	name, root := file, "/"
	if dir != "" {
		root = filepath.Join(dir, "root")
		if cwd, err := os.Readlink(filepath.Join(dir, "cwd")); err == nil && !filepath.IsAbs(file) {
			name = filepath.Join(cwd, file)
		}
	}
	name, err := filepath.Abs(name)
	if err != nil {
		return nil, err
	}
	f, err := openIn(root, name)
	if errors.Is(err, fs.ErrNotExist) && file == standard {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	return readFrom(f, maxFile, 0)
}

// openIn opens a file below a root directory for reading, as a process with this root directory does.
func openIn(root, file string) (*os.File, error) {
	at, err := unix.Open(root, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil { // the error must not match fs.ErrNotExist, which is about the file
		return nil, fmt.Errorf("open %s in %s: %s", file, root, err.Error())
	}
	defer unix.Close(at)
	how := unix.OpenHow{
		Flags:   unix.O_RDONLY | unix.O_NONBLOCK | unix.O_CLOEXEC, // a FIFO must not block
		Resolve: unix.RESOLVE_IN_ROOT,
	}
	for {
		fd, err := unix.Openat2(at, file, &how)
		switch {
		case err == nil:
			return os.NewFile(uintptr(fd), file), nil
		case !errors.Is(err, unix.EINTR) && !errors.Is(err, unix.EAGAIN):
			return nil, &fs.PathError{Op: "open", Path: file, Err: err}
		}
	}
}

// facts returns the versions of the kernel, the distribution and the engine, and the command line of the server.
func (h Host) facts(ctx context.Context, args []string, unknown error) ([]byte, error) {
	var b bytes.Buffer
	var u unix.Utsname
	err := unix.Uname(&u)
	fmt.Fprintf(&b, "kernel: %s %s %s\n", unix.ByteSliceToString(u.Release[:]), unix.ByteSliceToString(u.Version[:]),
		unix.ByteSliceToString(u.Machine[:]))
	if release, err := os.ReadFile("/etc/os-release"); err == nil {
		for line := range strings.SplitSeq(string(release), "\n") {
			if name, ok := strings.CutPrefix(line, "PRETTY_NAME="); ok {
				fmt.Fprintf(&b, "distribution: %s\n", strings.Trim(name, `"`))
			}
		}
	}
	if h.EngineVersion != nil {
		if version, failed := h.EngineVersion(ctx); failed != nil {
			err = errors.Join(err, fmt.Errorf("engine: %w", failed))
		} else {
			fmt.Fprintf(&b, "engine: %s\n", version)
		}
	}
	if unknown != nil {
		return b.Bytes(), errors.Join(err, fmt.Errorf("process of the server: %w", unknown))
	}
	fmt.Fprintf(&b, "server: %s\n", strings.Join(args, " "))
	return b.Bytes(), err
}

// log returns the end of the server's log: the file to which it writes its standard error, else the journal.
func (h Host) log(ctx context.Context, dir string) ([]byte, error) {
	if dir != "" {
		stderr := filepath.Join(dir, "fd", "2")
		if st, err := os.Stat(stderr); err == nil && st.Mode().IsRegular() {
			f, err := os.OpenFile(stderr, os.O_RDONLY|unix.O_NONBLOCK, 0)
			if err != nil {
				return nil, err
			}
			return readFrom(f, maxLog, st.Size()-maxLog)
		}
		its, err := os.Stat(filepath.Join(dir, "root"))
		ours, err2 := os.Stat("/")
		if err == nil && err2 == nil && !os.SameFile(its, ours) {
			return nil, dataset.Errorf(dataset.ErrUnavailable, "the server is in a container: read its log with "+
				"`docker logs`")
		}
	}
	if h.Runner == nil {
		return nil, errors.New("the log is not a file")
	}
	args := []string{"-n", strconv.Itoa(journalLines), "--no-pager", "-o", "short-iso-precise"}
	for _, unit := range []string{"drover", "drover-agent", "drover-control", "drover-guard"} {
		args = append(args, "-u", unit)
	}
	out, err := h.Runner.Run(ctx, run.Command{Name: "journalctl", Args: args, Timeout: 20 * time.Second})
	if err != nil {
		err = dataset.Errorf(dataset.ErrUnavailable, "the log is not a file, and the journal cannot be read: %w", err)
	}
	return out.Stdout, err
}

// readFrom returns at most limit bytes of a regular file from an offset on, and closes the file. If the offset is above
// 0, the result begins with a whole line.
func readFrom(f *os.File, limit, offset int64) ([]byte, error) {
	defer f.Close()
	st, err := f.Stat()
	if err != nil {
		return nil, err
	}
	if !st.Mode().IsRegular() {
		return nil, fmt.Errorf("%s is not a regular file", f.Name())
	}
	b, err := io.ReadAll(io.NewSectionReader(f, max(offset, 0), limit))
	if offset > 0 {
		_, b, _ = bytes.Cut(b, []byte("\n"))
	}
	return b, err
}
