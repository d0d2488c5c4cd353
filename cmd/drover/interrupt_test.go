package main

import (
	"context"
	"encoding/json"
	"io"
	"os"
	"os/signal"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/droverhq/drover/cmd/drover/internal/cli"
	"github.com/droverhq/drover/control/api"
	"github.com/droverhq/drover/control/api/client"
	"github.com/droverhq/drover/dataset"
	"github.com/droverhq/drover/test/assert"
	"github.com/droverhq/drover/test/require"
)

// interrupted makes the console get the signal when the server is called with method for the nth time.
func interrupted(c *console, method string, nth int) {
	var cancel context.CancelFunc
	c.Signals = func(ctx context.Context) (context.Context, context.CancelFunc) {
		ctx, cancel = context.WithCancel(ctx)
		return ctx, cancel
	}
	c.fake.hook = func(m string) {
		if m == method {
			if nth--; nth == 0 {
				cancel()
			}
		}
	}
}

func TestInterruptSaysThatTheWorkGoesOn(t *testing.T) {
	for name, tc := range map[string]struct {
		args   []string
		method string
		nth    int
		says   []string
	}{
		"before the server": {[]string{"volume", "create", "db"}, "Submit", 1, []string{"may continue", "drover operation inspect --wait " + idReq.String()}},
		"while waiting":     {[]string{"volume", "create", "db"}, "Operation", 4, []string{"continues", "drover operation inspect --wait " + idOp.String(), "drover operation cancel " + idOp.String()}},
		"while it is away":  {[]string{"snapshot", "restore", "db", "51"}, "Operation", 2, []string{"continues", idOp.String()}},
		"while watching":    {[]string{"operation", "inspect", "--wait", "0b00"}, "Operation", 3, []string{"continues", idOp.String()}},
		"while sending":     {[]string{"volume", "import", "db", "--from", "-"}, "Import", 1, []string{"was cancelled"}},
	} {
		t.Run(name, func(t *testing.T) {
			c := newConsole(theWorld())
			works(c.fake, running("copy", 1, 0), running("copy", 0, 0), running("copy", 0, 0), running("copy", 0, 0))
			c.fake.progress = c.fake.progress[:3]
			if tc.nth == 2 {
				c.fake.progress = []answer{{err: dataset.Errorf(dataset.ErrUnavailable, "away")}, {err: dataset.Errorf(dataset.ErrUnavailable, "away")}}
			}
			interrupted(c, tc.method, tc.nth)
			if code := c.run(t, tc.args...); code != 1 || c.out.Len() > 0 {
				t.Errorf("exit %d, said %q", code, c.out.String())
			}
			lines := strings.Split(strings.TrimSpace(c.err.String()), "\n")
			for _, s := range append(tc.says, "drover: interrupted") {
				if !strings.Contains(lines[len(lines)-1], s) {
					t.Errorf("%q does not say %q", c.err.String(), s)
				}
			}
		})
	}
}

// TestInterruptEndsAPurgeOfEverything: after an interrupt, trash purge --all purges no further dataset.
func TestInterruptEndsAPurgeOfEverything(t *testing.T) {
	c := newConsole(theWorld())
	if len(c.fake.trash) < 2 {
		t.Fatal("the trash needs two datasets")
	}
	step := running("destroy", 1, 0)
	works(c.fake, step, step, step, step, step, step)
	interrupted(c, "Operation", 2)
	interrupt := c.fake.hook
	c.fake.hook = func(method string) {
		if interrupt(method); method == "Operation" { // a second purge must not wait forever
			c.fake.fail = map[string]error{"Submit": dataset.Errorf(dataset.ErrOffline, "boom")}
		}
	}
	code := c.run(t, "trash", "purge", "--all", "--yes")
	isPurge := func(line string) bool { return strings.HasPrefix(line, "Submit ") }
	if n := len(slices.DeleteFunc(slices.Clone(c.fake.asked), func(line string) bool { return !isPurge(line) })); n != 1 {
		t.Errorf("%d datasets were purged: %v", n, c.fake.asked)
	}
	if code != 1 || !strings.Contains(c.err.String(), "interrupted: operation") {
		t.Errorf("exit %d, %q", code, c.err.String())
	}
}

// TestInterruptOfSeveralPrintsJSON: after an interrupt, -o json of a command for several items has the outcomes so far:
// that of the first item, which ended, and that of the second, which continues.
func TestInterruptOfSeveralPrintsJSON(t *testing.T) {
	for _, args := range [][]string{
		{"trash", "purge", "--all", "--yes"}, {"trash", "purge", "old", "older", "--yes"}, {"volume", "rm", "db", "web", "--yes"},
		{"snapshot", "rm", "51000000", "57000000"}, {"backup", "create", "db", "web"},
	} {
		t.Run(strings.Join(args, " "), func(t *testing.T) {
			c := newConsole(theWorld())
			works(c.fake, running("copy", 1, 0), ended(dataset.OpDone, nil))
			interrupted(c, "Operation", 2)
			code := c.run(t, append(args, "-o", "json")...)
			var outs []api.Outcome
			if err := json.Unmarshal(c.out.Bytes(), &outs); err != nil {
				t.Fatalf("exit %d, %q, %q: %v", code, c.out.String(), c.err.String(), err)
			}
			if code != 1 || len(outs) != 2 || outs[0].Operation.State != dataset.OpDone || outs[1].Operation.State.Final() {
				t.Errorf("exit %d, %s", code, c.out.String())
			}
			if !strings.Contains(c.err.String(), "drover: interrupted: operation "+idOp.String()+" continues") {
				t.Errorf("said %q", c.err.String())
			}
		})
	}
}

// TestInterruptTooLateChangesNothing: if the work is done when the signal arrives, the command succeeds.
func TestInterruptTooLateChangesNothing(t *testing.T) {
	c := newConsole(theWorld())
	works(c.fake, ended(dataset.OpDone, nil))
	interrupted(c, "Operation", 1)
	if code := c.run(t, "volume", "rm", "db"); code != 0 {
		t.Errorf("exit %d: %s", code, c.err.String())
	}
}

func TestBackup(t *testing.T) {
	exists := func(t *testing.T, path, content string) {
		t.Helper()
		require.NoError(t, os.WriteFile(path, []byte(content), 0o644))
	}
	for name, tc := range map[string]struct {
		prepare func(t *testing.T, c *console, file string)
		code    int
		says    string
		left    map[string]string
	}{
		"good": {func(*testing.T, *console, string) {}, 0, "wrote", map[string]string{"b.db": "bytes"}},
		"exists": {func(t *testing.T, _ *console, file string) { exists(t, file, "mine") }, 1, "overwrites nothing",
			map[string]string{"b.db": "mine"}},
		"a link that leads nowhere exists too": {func(t *testing.T, _ *console, file string) {
			require.NoError(t, os.Symlink("nowhere", file))
		}, 1, "overwrites nothing", map[string]string{"b.db": ""}},
		"another is under way": {func(t *testing.T, _ *console, file string) { exists(t, file+".tmp", "its") }, 1, "b.db.tmp exists",
			map[string]string{"b.db.tmp": "its"}},
		"comes into being meanwhile": {func(t *testing.T, c *console, file string) {
			c.fake.hook = func(string) { exists(t, file, "its") }
		}, 1, "overwrites nothing", map[string]string{"b.db": "its"}},
		"the server fails": {func(t *testing.T, c *console, _ string) {
			c.fake.fail = map[string]error{"Backup": dataset.Errorf(dataset.ErrUnavailable, "broke off")}
		}, 1, "broke off", map[string]string{}},
		"nothing comes": {func(t *testing.T, c *console, _ string) { c.fake.data = "" }, 1, "empty backup", map[string]string{}},
		"interrupted": {func(t *testing.T, c *console, _ string) { interrupted(c, "Backup", 1) }, 1, "no backup",
			map[string]string{}},
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			file := filepath.Join(dir, "b.db")
			c := newConsole(theWorld())
			tc.prepare(t, c, file)
			if code := c.run(t, "store", "backup", file); code != tc.code || !strings.Contains(c.out.String()+c.err.String(), tc.says) {
				t.Errorf("exit %d, said %q", code, c.out.String()+c.err.String())
			}
			entries, err := os.ReadDir(dir)
			if err != nil || len(entries) != len(tc.left) {
				t.Fatalf("left %v, %v", entries, err)
			}
			for _, e := range entries {
				if b, _ := os.ReadFile(filepath.Join(dir, e.Name())); string(b) != tc.left[e.Name()] {
					t.Errorf("%s holds %q", e.Name(), b)
				}
			}
			if info, _ := os.Lstat(file); name == "good" && info.Mode().Perm() != 0o600 {
				t.Errorf("mode %v", info.Mode())
			}
		})
	}
}

// TestSignals sends a real signal to this process. It is SIGTERM, which neither nohup nor a shell's & makes a process
// ignore.
func TestSignals(t *testing.T) {
	ctx, stop := signals(t.Context())
	defer stop()
	require.NoError(t, syscall.Kill(os.Getpid(), syscall.SIGTERM))
	<-ctx.Done()
}

func TestIgnoredSignalsStayIgnored(t *testing.T) {
	signal.Ignore(syscall.SIGHUP)
	defer signal.Reset(syscall.SIGHUP)
	_, stop := signals(t.Context())
	defer stop()
	if !signal.Ignored(syscall.SIGHUP) {
		t.Error("nohup is undone")
	}
}

func TestSleep(t *testing.T) {
	assert.NoError(t, sleep(t.Context(), time.Nanosecond))
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := sleep(ctx, time.Hour); err == nil {
		t.Error("slept on")
	}
}

// TestBrokenOutputFails: a command fails if its output cannot be written.
func TestBrokenOutputFails(t *testing.T) {
	for _, args := range [][]string{
		{"volume", "ls"}, {"volume", "ls", "-q"}, {"volume", "ls", "-o", "json"}, {"volume", "inspect", "db"}, {"volume", "create", "db"},
		{"volume", "export", "db"}, {"snapshot", "ls"}, {"events"}, {"events", "-o", "json"}, {"doctor"}, {"version"}, {"completion", "bash"},
		{"pool", "adopt", "/x"}, {"volume", "create", "-o", "help"},
	} {
		c := newConsole(theWorld())
		scenarios["works"](c)
		c.App.Out = brokenPipe{}
		if code := c.run(t, args...); code != 1 {
			t.Errorf("%v: exit %d", args, code)
		}
	}
}

type brokenPipe struct{}

func (brokenPipe) Write([]byte) (int, error) { return 0, io.ErrClosedPipe }

func TestAddress(t *testing.T) {
	for name, tc := range map[string]struct {
		args []string
		env  string
		want string
	}{
		"default":       {nil, "", "unix:///run/drover/drover.sock"},
		"DROVER_API":    {nil, "https://env", "https://env"},
		"--api is more": {[]string{"--api", "unix:///x"}, "https://env", "unix:///x"},
	} {
		t.Run(name, func(t *testing.T) {
			c := newConsole(theWorld())
			c.env["DROVER_API"] = tc.env
			got := ""
			c.Dial = func(e string) (cli.Remote, error) { got = e; return c.fake, nil }
			if c.run(t, append(tc.args, "volume", "ls")...); got != tc.want {
				t.Errorf("got %q, want %q", got, tc.want)
			}
		})
	}
}

// TestBadAddressFailsEveryCommand: every command fails with a usage error before it does anything.
func TestBadAddressFailsEveryCommand(t *testing.T) {
	for _, args := range [][]string{
		{"volume", "ls"}, {"volume", "inspect", "x"}, {"volume", "create", "x"}, {"volume", "create", "-o", "help"}, {"volume", "rm", "x"},
		{"volume", "import", "x", "--from", "-"}, {"volume", "export", "x"}, {"snapshot", "ls"}, {"snapshot", "inspect", "x"}, {"snapshot", "diff", "x"},
		{"trash", "ls"}, {"trash", "purge", "x", "--yes"}, {"profile", "ls"}, {"profile", "show", "x"}, {"pool", "ls"}, {"pool", "inspect", "x"},
		{"pool", "create", "x", "--backend", "dir", "--path", "/x"}, {"pool", "adopt", "/x"}, {"pool", "accept", "x", "--yes"}, {"pool", "rm", "x"}, {"node", "ls"}, {"node", "inspect", "x"},
		{"store", "backup", "x"}, {"store", "recover", "--from-pools"}, {"operation", "ls"}, {"operation", "inspect", "--wait", "x"}, {"operation", "cancel", "x"},
		{"events"}, {"doctor"}, {"version"}, {"volume", "stats"},
		{"repository", "add", "x", "/x", "--password", "file:/x"}, {"repository", "check", "x"}, {"repository", "rm", "x"},
	} {
		c := newConsole(theWorld())
		c.Dial = func(e string) (cli.Remote, error) { return client.New(e) }
		if code := c.run(t, append(args, "--api", "nonsense")...); code != 2 || !strings.Contains(c.err.String(), `"nonsense"`) {
			t.Errorf("%v: exit %d, %q", args, code, c.err.String())
		}
	}
}

// TestErrorsOfTheServerFailEveryCommand: every command fails with exit code 1 and one line.
func TestErrorsOfTheServerFailEveryCommand(t *testing.T) {
	for method, args := range map[string][]string{
		"Volumes": {"volume", "ls"}, "Volume": {"volume", "inspect", "db"}, "Submit": {"volume", "create", "db"}, "Profiles": {"profile", "ls"},
		"Import": {"volume", "import", "x", "--from", "-"}, "Export": {"volume", "export", "x"}, "Snapshots": {"snapshot", "ls"},
		"Snapshot": {"snapshot", "inspect", "51"}, "Diff": {"snapshot", "diff", "x"}, "Trash": {"trash", "ls"}, "Profile": {"profile", "show", "gold"},
		"Pools": {"pool", "inspect", "x"}, "CreatePool": {"pool", "create", "x", "--backend", "dir", "--path", "/x"}, "AdoptPool": {"pool", "adopt", "/x"},
		"AcceptPool": {"pool", "accept", "x", "--yes"}, "RemovePool": {"pool", "rm", "x", "--yes"}, "PreviewRemovePool": {"pool", "rm", "x"},
		"Repository": {"repository", "rm", "offsite"}, "Repositories": {"repository", "ls"}, "RemoveRepository": {"repository", "rm", "offsite", "--yes"},
		"AddRepository": {"repository", "add", "x", "/x", "--password", "file:/x"}, "CheckRepository": {"repository", "check", "offsite"},
		"VolumeBackups": {"backup", "ls"}, "VolumeBackup": {"backup", "inspect", "1c09aa5f"}, "RemoveBackup": {"backup", "rm", "1c09aa5f", "--yes"}, "PruneRepository": {"backup", "prune"},
		"SetPool":  {"pool", "set", "x", "--overcommit", "1.5"},
		"NodeList": {"node", "inspect", "x"}, "RebuildStore": {"store", "recover", "--from-pools"}, "Operations": {"operation", "ls"}, "Operation": {"operation", "inspect", "--wait", "x"},
		"CancelOperation": {"operation", "cancel", "x"}, "Events": {"events"}, "Doctor": {"doctor"}, "VolumeIO": {"volume", "stats"}, "Collect": {"doctor", "--gc", idGone.String(), "--yes"}, "PreviewCollect": {"doctor", "--gc", idGone.String()},
	} {
		c := newConsole(theWorld())
		c.fake.fail = map[string]error{method: dataset.Errorf(dataset.ErrOffline, "boom")}
		if code := c.run(t, args...); code != 1 || c.err.String() != "drover: boom\n" && method != "Import" {
			t.Errorf("%v: exit %d, %q", args, code, c.err.String())
		}
	}
}

// TestEventsAreFollowedUntilTheServerGoesAway: if the stream of events ends because the server stops, the command
// fails.
func TestEventsAreFollowedUntilTheServerGoesAway(t *testing.T) {
	c := newConsole(theWorld())
	c.Dial = func(string) (cli.Remote, error) { return overTheWire(t)(c.fake), nil }
	if code := c.run(t, "events", "--follow", "-o", "json"); code != 1 || strings.Count(c.out.String(), "\n") != 2 {
		t.Errorf("exit %d, %q", code, c.out.String())
	}
	if want := []string{`Events {"follow":true}`}; !slices.Equal(c.fake.asked, want) {
		t.Errorf("asked %v", c.fake.asked)
	}
}
