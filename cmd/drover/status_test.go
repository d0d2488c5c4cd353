package main

import (
	"context"
	"encoding/json"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/droverhq/drover/cmd/drover/internal/status"
	"github.com/droverhq/drover/control/api"
	"github.com/droverhq/drover/dataset"
	"github.com/droverhq/drover/test/require"
)

// TestStatusWatch repeats the report until the user interrupts it, and then exits with 0.
func TestStatusWatch(t *testing.T) {
	for _, args := range []string{"status --watch", "status -w -o json"} {
		c := newConsole(theWorld())
		c.Sleep = func(ctx context.Context, d time.Duration) error {
			if d == status.ExamineAfter {
				<-ctx.Done()
				return ctx.Err()
			}
			if d != status.WatchPause {
				t.Errorf("paused for %s, want %s", d, status.WatchPause)
			}
			if c.slept++; c.slept == 3 {
				return context.Canceled
			}
			return nil
		}
		if code := c.run(t, strings.Fields(args)...); code != 0 || c.err.Len() > 0 {
			t.Errorf("%s: exit code %d, %s", args, code, c.err.String())
		}
		if n := strings.Count(c.out.String(), "volume db-test"); n < 3 || strings.Contains(c.out.String(), "\x1b") {
			t.Errorf("%s: volume db-test is reported %d times, want once in each of 3 reports:\n%s", args, n, c.out.String())
		}
	}
}

// TestListsWatch: --watch repeats a list until the user interrupts it, which is no failure.
func TestListsWatch(t *testing.T) {
	for args, item := range map[string]string{
		"volume ls --watch": "db ", "snapshot ls db -w": "before-upgrade", "operation ls -w": "0b000000",
		"pool ls -w -q": "b0000000", "node ls -w --format {{.Name}}": "host-a", "backup ls -w": "1c09bb5f",
	} {
		c := newConsole(theWorld())
		pauses := 0
		pause := 2 * time.Second
		if strings.HasPrefix(args, "backup ") { // each list of backups runs restic
			pause = 30 * time.Second
		}
		c.Sleep = func(_ context.Context, d time.Duration) error {
			if d != pause {
				t.Errorf("%s: a pause of %s, want %s", args, d, pause)
			}
			if pauses++; pauses == 3 {
				return errors.New("interrupted")
			}
			return nil
		}
		code := c.run(t, strings.Fields(args)...)
		if n := strings.Count(c.out.String(), item); code != 0 || pauses != 3 || n < 3 || n%3 != 0 {
			t.Errorf("%s: exit %d, %d pauses, %d times %q: %s%s", args, code, pauses, n, item, c.out.String(), c.err.String())
		}
	}
}

// TestListsWatchFail: an error of the server ends --watch.
func TestListsWatchFail(t *testing.T) {
	c := newConsole(theWorld())
	c.fake.fail = map[string]error{"Pools": dataset.Errorf(dataset.ErrForbidden, "not allowed")}
	if code := c.run(t, "pool", "ls", "--watch"); code != 1 || !strings.Contains(c.err.String(), "not allowed") {
		t.Errorf("exit %d, %s", code, c.err.String())
	}
}

// Only outputs that show nothing else ask for summaries.
func TestListsAskForSummaries(t *testing.T) {
	for _, tc := range []struct {
		args []string
		want bool
	}{
		{nil, true}, {[]string{"-o", "wide"}, true}, {[]string{"--format", "{{.Name}}"}, true}, {[]string{"-q"}, true},
		{[]string{"--sort", "used"}, true}, {[]string{"--filter", "label=env=prod"}, true}, {[]string{"--filter", "name=db"}, true},
		{[]string{"-o", "json"}, false}, {[]string{"-o", "yaml", "--filter", "name=db"}, false},
	} {
		c := newConsole(theWorld())
		if code := c.run(t, append([]string{"volume", "ls"}, tc.args...)...); code != 0 {
			t.Errorf("volume ls %q: exit %d, %s", tc.args, code, c.err.String())
		}
		if c.fake.summaries != tc.want {
			t.Errorf("volume ls %q: asked for summaries: %t, want %t", tc.args, c.fake.summaries, tc.want)
		}
	}
}

// TestSupportBundle: the bundle has the output of all commands, none of which has a secret that a server returns. If
// the server does not answer, the command still succeeds.
func TestSupportBundle(t *testing.T) {
	bundle := func(scenario string) (map[string]string, *console) {
		c := newConsole(theWorld())
		scenarios[scenario](c)
		c.env["DROVER_API"] = "unix://" + t.TempDir() + "/none"
		c.fake.findings = append(c.fake.findings, api.Finding{Level: "error", Subject: "store", Text: "GET https://u:hunter2@consul/: token=hunter2 is refused"})
		for i := range c.fake.volumes {
			c.fake.volumes[i].Labels = map[string]string{"db-password": "hunter2"}
		}
		file := filepath.Join(t.TempDir(), "b.tar.gz")
		if code := c.run(t, "support-bundle", "-o", file); code != 0 {
			t.Fatalf("%s: exit %d: %s", scenario, code, c.err.String())
		}
		return untar(t, file), c
	}
	files, c := bundle("")
	for _, name := range []string{
		"version.json", "status.txt", "doctor.txt", "volumes.json", "operations.json", "events.json", "host.txt",
	} {
		text := files[name]
		if text == "" || strings.Contains(text, "hunter2") || strings.Contains(files["errors.txt"], "\n"+name) {
			t.Errorf("%s: %q; errors: %s", name, text, files["errors.txt"])
		}
		if strings.HasSuffix(name, ".json") && name != "events.json" && !json.Valid([]byte(text)) {
			t.Errorf("%s is no JSON: %s", name, text)
		}
	}
	if !strings.Contains(files["volumes.json"], "[redacted]") || !strings.Contains(files["status.txt"], "[redacted]") {
		t.Errorf("%q", files)
	}
	for _, line := range c.fake.asked {
		if strings.Contains(line, "Backup") || strings.HasPrefix(line, "Submit") {
			t.Errorf("asked %s", line)
		}
	}
	files, c = bundle("away")
	if !strings.Contains(files["errors.txt"], "volumes.json: cannot reach drover") || !strings.Contains(c.err.String(), "volumes.json") {
		t.Errorf("%q, %q", files, c.err.String())
	}
}

func untar(t *testing.T, file string) map[string]string {
	t.Helper()
	dir := t.TempDir()
	if out, err := exec.Command("tar", "-xzf", file, "-C", dir, "--strip-components=1").CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	files := map[string]string{}
	list, err := os.ReadDir(dir)
	for _, f := range list {
		b, readErr := os.ReadFile(filepath.Join(dir, f.Name()))
		err = errors.Join(err, readErr)
		files[f.Name()] = string(b)
	}
	require.NoError(t, err)
	return files
}
