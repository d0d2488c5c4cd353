package status

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/droverhq/drover/cmd/drover/internal/cli"
	"github.com/droverhq/drover/control/api"
	"github.com/droverhq/drover/dataset"
	"github.com/droverhq/drover/internal/run"
	"github.com/droverhq/drover/test/fakes"
	"github.com/droverhq/drover/test/require"
)

// bench is a host with a server, whose proc filesystem is a folder. Everything on it has the secret hunter2.
type bench struct {
	Host
	dir     string
	app     cli.App
	out     bytes.Buffer
	notes   bytes.Buffer
	run     RunCommand
	address string
	stop    context.CancelFunc
}

func newBench(t *testing.T) *bench {
	t.Helper()
	dir := t.TempDir()
	write := func(file, content string) {
		t.Helper()
		path := filepath.Join(dir, file)
		require.NoError(t, errors.Join(os.MkdirAll(filepath.Dir(path), 0o700), os.WriteFile(path, []byte(content), 0o600)))
	}
	self := "proc/" + strconv.Itoa(os.Getpid())
	write("drover.yaml", "# hunter2\npools: [{name: fast, backend: dir, path: /srv/fast}]\nlabels:\n  token: hunter2\n  url: http://u:hunter2@consul:8500\n")
	write("other.yaml", "silver:\n  encryption:\n    password: hunter2\n")
	write("server.log", "first\ntoken=hunter2 level=info\nlast\n")
	write(self+"/cmdline", "drover\x00serve\x00--profiles=other.yaml\x00--token\x00hunter2\x00--root\x00/data/root\x00")
	require.NoError(t, errors.Join(os.Mkdir(filepath.Join(dir, self, "fd"), 0o700), os.Symlink(filepath.Join(dir, "server.log"), filepath.Join(dir, self, "fd/2")), os.Symlink(dir, filepath.Join(dir, self, "cwd")), os.Symlink("/", filepath.Join(dir, self, "root"))))
	l, err := net.Listen("unix", filepath.Join(dir, "s"))
	require.NoError(t, err)
	t.Cleanup(func() { l.Close() })
	b := &bench{dir: dir, address: "unix://" + filepath.Join(dir, "s")}
	b.Host = Host{
		Proc: filepath.Join(dir, "proc"), Config: filepath.Join(dir, "drover.yaml"), Profiles: filepath.Join(dir, "profiles.yaml"),
		EngineVersion: func(context.Context) (string, error) { return "Docker 29, https://u:hunter2@engine", nil },
	}
	b.run = func(_ context.Context, out, _ io.Writer, args ...string) error {
		_, err := fmt.Fprintf(out, "{\"of\": %q, \"password\": \"hunter2\"}\n", args)
		return err
	}
	b.app = cli.App{
		Out: &b.out, ErrOut: &b.notes, Now: func() time.Time { return time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC) },
		Getenv: func(string) string { return b.address }, Dial: func(string) (cli.Remote, error) { return nil, nil },
		Signals: func(ctx context.Context) (context.Context, context.CancelFunc) {
			ctx, b.stop = context.WithCancel(ctx)
			return ctx, b.stop
		},
	}
	return b
}

// collect runs the command and returns the files of the bundle.
func (b *bench) collect(t *testing.T, args ...string) (map[string]string, error) {
	t.Helper()
	file := filepath.Join(t.TempDir(), "b.tar.gz")
	cmd := BundleCommand(&b.app, b.run, b.Host)
	cmd.SetArgs(append([]string{"-o", file}, args...))
	cmd.SilenceErrors, cmd.SilenceUsage = true, true
	if err := cmd.ExecuteContext(t.Context()); err != nil {
		return nil, err
	}
	if st, err := os.Lstat(file); err != nil || st.Mode() != 0o600 {
		t.Errorf("mode %v, %v", st.Mode(), err)
	}
	return unpack(t, file), nil
}

func unpack(t *testing.T, file string) map[string]string {
	t.Helper()
	f, err := os.Open(file)
	require.NoError(t, err)
	defer f.Close()
	zip, err := gzip.NewReader(f)
	require.NoError(t, err)
	files := map[string]string{}
	for archive := tar.NewReader(zip); ; {
		h, err := archive.Next()
		if errors.Is(err, io.EOF) {
			return files
		}
		content, rerr := io.ReadAll(archive)
		err = errors.Join(err, rerr)
		require.NoError(t, err)
		dir, name := filepath.Split(h.Name)
		if h.Mode != 0o600 || dir != "drover-support-20260301T120000Z/" {
			t.Errorf("%s has mode %o", h.Name, h.Mode)
		}
		files[name] = string(content)
	}
}

// TestBundleIsComplete: all parts are in the bundle, and no secret of the host, of the settings or of a command.
func TestBundleIsComplete(t *testing.T) {
	b := newBench(t)
	files, err := b.collect(t)
	require.NoError(t, err)
	want := map[string]string{
		"host.txt": "drover serve", "drover.yaml": `token: "[redacted]"`, "profiles.yaml": `password: "[redacted]"`, "log.txt": "last\n",
	}
	for _, p := range commandParts {
		want[p.file] = p.args[0]
	}
	for name, text := range want {
		if !strings.Contains(files[name], text) {
			t.Errorf("%s: %q", name, files[name])
		}
	}
	for name, text := range files {
		if strings.Contains(text, "hunter2") || want[name] == "" {
			t.Errorf("%s: %q", name, text)
		}
	}
	if !strings.Contains(b.out.String(), "b.tar.gz: everything was collected\n") || b.notes.Len() > 0 {
		t.Errorf("said %q, %q", b.out.String(), b.notes.String())
	}
}

// TestBundleOfAContainer: the settings are those that a server in a container sees. Its log is not in a journal.
func TestBundleOfAContainer(t *testing.T) {
	b := newBench(t)
	proc := filepath.Join(b.dir, "proc", strconv.Itoa(os.Getpid()))
	root := filepath.Join(b.dir, "container")
	settings := filepath.Join(root, b.Config)
	b.Profiles = "/etc/profiles.yaml"
	for _, err := range []error{
		os.MkdirAll(filepath.Dir(settings), 0o700), os.MkdirAll(root+"/etc", 0o700),
		os.WriteFile(settings, []byte("pools: [{name: fast, backend: dir, path: /of/container}]\n"), 0o600),
		os.WriteFile(root+"/etc/target", []byte("silver: {of: container}\n"), 0o600),
		os.Symlink("../../../../../etc/target", root+"/etc/profiles.yaml"), // "/etc/target" in the container
		os.Remove(proc + "/root"), os.Symlink(root, proc+"/root"), os.Remove(proc + "/fd/2"), os.Symlink("/dev/null", proc+"/fd/2"),
		os.WriteFile(proc+"/cmdline", []byte("drover\x00serve"), 0o600),
	} {
		require.NoError(t, err)
	}
	b.Runner = fakes.Run(func(context.Context, run.Command) (run.Result, error) {
		return run.Result{Stdout: []byte("another journal\n")}, nil
	})
	files, err := b.collect(t)
	require.NoError(t, err)
	for name, want := range map[string]string{
		"drover.yaml": "/of/container", "profiles.yaml": "of: container", "errors.txt": "log.txt: the server is in a container: read its log with `docker logs`\n",
	} {
		if !strings.Contains(files[name], want) {
			t.Errorf("%s: %q", name, files[name])
		}
	}
	if files["log.txt"] != "" {
		t.Errorf("log %q", files["log.txt"])
	}
	require.NoError(t, os.Remove(settings))
	if files, err = b.collect(t); err != nil || files["drover.yaml"] != "" || strings.Contains(files["errors.txt"], "drover.yaml") {
		t.Errorf("%v: %q, %q", err, files["drover.yaml"], files["errors.txt"])
	}
	if err := os.Remove(proc + "/root"); err != nil { // the process ended
		t.Fatal(err)
	}
	if files, err = b.collect(t); err != nil || files["drover.yaml"] != "" || !strings.Contains(files["errors.txt"], "drover.yaml: open "+b.Config) {
		t.Errorf("%v: %q, %q", err, files["drover.yaml"], files["errors.txt"])
	}
}

// TestBundleWithoutServer: parts that cannot be collected are listed, and do not end the command. Findings of status
// are not a failure.
func TestBundleWithoutServer(t *testing.T) {
	b := newBench(t)
	b.address, b.Config = "unix://"+b.dir+"/none", b.dir+"/missing.yaml"
	b.Runner = fakes.Run(func(context.Context, run.Command) (run.Result, error) {
		return run.Result{Stdout: []byte("token=hunter2\nlast line of the journal\n")}, errors.New("journalctl: \x1b[2Jtoken=hunter2")
	})
	b.run = func(_ context.Context, out, notes io.Writer, args ...string) error {
		switch args[0] {
		case "status":
			fmt.Fprintln(out, "error server")
			return cli.Verdict([]api.Finding{{Level: api.LevelError}})
		case "version":
			return context.DeadlineExceeded
		case "volume":
			fmt.Fprintln(out, "[]")
			fmt.Fprintln(notes, "drover: this is from the records of this host")
			return nil
		}
		return dataset.Errorf(dataset.ErrUnavailable, "cannot reach https://u:hunter2@host\nat all")
	}
	files, err := b.collect(t)
	require.NoError(t, err)
	said := b.notes.String()
	for _, all := range []string{files["errors.txt"], said} {
		for _, part := range []string{"host.txt", "log.txt", "version.json", "doctor.txt", "volumes.json", "events.json", "operations.json"} {
			if !strings.Contains(all, part) {
				t.Errorf("%s is not named: %s", part, all)
			}
		}
		if strings.Contains(all, "hunter2") || strings.Contains(all, "status.txt") || strings.Contains(all, "drover.yaml") || strings.Contains(all, "\x1b") {
			t.Errorf("said %q", all)
		}
	}
	if lines := strings.Split(said, "\n"); len(lines) != 6 || !slices.ContainsFunc(lines, func(l string) bool {
		return strings.Contains(l, "doctor.txt, operations.json") && strings.HasSuffix(l, "cannot reach https://[redacted]@host; at all")
	}) {
		t.Errorf("said\n%s", said)
	}
	if files["log.txt"] != "token=[redacted]\nlast line of the journal\n" || files["volumes.json"] != "[]\n" || files["status.txt"] == "" {
		t.Errorf("files: %q", files)
	}
	if !strings.Contains(b.out.String(), "parts are missing or incomplete (see errors.txt in it)") {
		t.Errorf("said %q", b.out.String())
	}
}

// TestBundleReplacesNothing: an existing file, a symbolic link or an interrupt ends the command without a file.
func TestBundleReplacesNothing(t *testing.T) {
	b := newBench(t)
	dir := t.TempDir()
	target := filepath.Join(dir, "target")
	require.NoError(t, errors.Join(os.WriteFile(filepath.Join(dir, "file"), nil, 0o644), os.Symlink(target, filepath.Join(dir, "link")), os.Symlink(target, filepath.Join(dir, "new.tmp"))))
	for _, name := range []string{"file", "link", "new"} {
		if _, err := b.collect(t, "-o", filepath.Join(dir, name)); !errors.Is(err, dataset.ErrExists) {
			t.Errorf("%s: %v", name, err)
		}
	}
	b.run = func(context.Context, io.Writer, io.Writer, ...string) error { b.stop(); return nil }
	if _, err := b.collect(t, "-o", filepath.Join(dir, "interrupted")); err == nil || !strings.Contains(err.Error(), "interrupted") {
		t.Error(err)
	}
	list, err := os.ReadDir(dir)
	if err != nil || len(list) != 3 {
		t.Errorf("left %v, %v", list, err)
	}
	for _, bad := range []string{"", "json", "-"} {
		if _, err := b.collect(t, "-o", bad); !errors.Is(err, dataset.ErrInvalid) {
			t.Errorf("-o %q: %v", bad, err)
		}
	}
}

// TestLongLog: only the end of a long log is in the bundle, from the beginning of a line.
func TestLongLog(t *testing.T) {
	b := newBench(t)
	line := strings.Repeat("x", 99) + "\n"
	require.NoError(t, os.WriteFile(filepath.Join(b.dir, "server.log"), []byte("first\n"+strings.Repeat(line, 30000)+"last\n"), 0o600))
	files, err := b.collect(t)
	if log := files["log.txt"]; err != nil || len(log) > maxLog || len(log) < maxLog-200 || !strings.HasPrefix(log, line) || !strings.HasSuffix(log, "last\n") {
		t.Errorf("%d bytes, %v", len(log), err)
	}
}
