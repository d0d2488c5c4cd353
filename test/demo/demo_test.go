// Package demo runs `make demo` and `make demo-clean` as a new user does.
package demo

import (
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/droverhq/drover/internal/long"
	"github.com/droverhq/drover/test/assert"
	"github.com/droverhq/drover/test/engine"
	"github.com/droverhq/drover/test/require"
)

func TestMain(m *testing.M) { engine.Main(m) }

// A stage is where one demonstration keeps its files.
type stage struct {
	dir string
	env []string
}

// newStage makes a stage whose engine is at the given address.
func newStage(t *testing.T, dockerHost string) stage {
	t.Helper()
	// The paths of sockets have at most 107 bytes (unix(7)), and t.TempDir contains the name of the test.
	top, err := os.MkdirTemp("", "demo-") //nolint:usetesting // see above
	require.NoError(t, err)
	s := stage{dir: filepath.Join(top, "demo")}
	s.env = append(os.Environ(), "DROVER_DEMO="+s.dir, "DOCKER_HOST="+dockerHost)
	t.Cleanup(func() {
		s.script(t, "demo-clean.sh")
		assert.NoError(t, os.RemoveAll(top))
	})
	return s
}

// script runs one of the scripts, which must succeed, and returns its output.
func (s stage) script(t *testing.T, name string) string {
	t.Helper()
	cmd := exec.Command(filepath.Join("../../scripts", name))
	cmd.Env = s.env
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("%s: %v\n%s", name, err, out)
	}
	return string(out)
}

// play runs the demonstration and checks its output.
func (s stage) play(t *testing.T) {
	t.Helper()
	out := s.script(t, "demo.sh")
	for _, want := range []string{
		"$ docker run -d --name drover-demo-db -v demo-db@gold:/var/lib/mysql --volume-driver drover-demo drover-mariadb\n",
		"$ docker run -d --name drover-demo-dev -v demo-dev@snapshot-",
		"$ drover snapshot restore demo-db before-upgrade\n",
	} {
		if !strings.Contains(out, want) {
			t.Errorf("the demonstration does not show %q:\n%s", want, out)
		}
	}
	// The clone has every row. What is deleted there stays in the original, and a restore brings everything back.
	if !strings.Contains(out, "count(*)\n3\n") || strings.Count(out, "\n3\tglue\n") != 2 {
		t.Errorf("the demonstration does not show three rows in the clone, after the clone lost them, and after the restore:\n%s", out)
	}
}

// clean runs demo-clean, which must leave nothing, and can be repeated.
func (s stage) clean(t *testing.T) {
	t.Helper()
	s.script(t, "demo-clean.sh")
	for _, path := range []string{s.dir, "/run/docker/plugins/drover-demo.sock"} {
		if _, err := os.Lstat(path); !os.IsNotExist(err) {
			t.Errorf("%s is still there: %v", path, err)
		}
	}
	mounts, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil || strings.Contains(string(mounts), s.dir) {
		t.Errorf("mounts are left: %v\n%s", err, mounts)
	}
	loops, err := exec.Command("losetup", "--list", "--output", "NAME,BACK-FILE").Output()
	if err != nil || strings.Contains(string(loops), s.dir) {
		t.Errorf("loop devices are left: %v\n%s", err, loops)
	}
	lines, err := filepath.Glob("/proc/[0-9]*/cmdline")
	require.NoError(t, err)
	for _, line := range lines {
		if args, err := os.ReadFile(line); err == nil && strings.Contains(string(args), s.dir) {
			t.Errorf("a process is left: %q", args)
		}
	}
	s.script(t, "demo-clean.sh")
}

// If no engine runs, the demonstration starts one and removes it again.
func TestDemoWithAnEngineOfItsOwn(t *testing.T) {
	s := newStage(t, "unix:///nowhere/docker.sock")
	s.play(t)
	if long.Enabled() {
		s.play(t) // over the first
	}
	s.clean(t)
}

// A running engine is used, and left as it was.
func TestDemoWithTheEngineThatRuns(t *testing.T) {
	e := engine.Start(t, engine.Options{Ports: true})
	before := images(t, e)
	s := newStage(t, e.Host)
	s.play(t)
	s.clean(t)
	e.Restart(t) // as demo-clean says, otherwise each command would wait for the plugin
	for what, args := range map[string][]string{
		"containers": {"ps", "--all", "--quiet"},
		"volumes":    {"volume", "ls", "--quiet"},
	} {
		if got := e.Must(t, args...); got != "" {
			t.Errorf("%s are left: %s", what, got)
		}
	}
	if after := images(t, e); !slices.Equal(after, before) {
		t.Errorf("images were %s and are %s", before, after)
	}
}

func images(t *testing.T, e *engine.Engine) []string {
	t.Helper()
	ids := strings.Fields(e.Must(t, "images", "--quiet"))
	slices.Sort(ids)
	return ids
}

// After kill -9 of everything, demo-clean still removes all of it.
func TestDemoCleanAfterACrash(t *testing.T) {
	long.Only(t)
	s := newStage(t, "unix:///nowhere/docker.sock")
	s.play(t)
	for _, name := range []string{"drover.pid", "dockerd.pid"} {
		pid, err := os.ReadFile(filepath.Join(s.dir, name))
		require.NoError(t, err)
		if out, err := exec.Command("kill", "-9", strings.TrimSpace(string(pid))).CombinedOutput(); err != nil {
			t.Fatalf("kill: %v: %s", err, out)
		}
	}
	s.clean(t)
}

// Neither script runs in a folder with other contents, and demo-clean removes no such folder.
func TestDemoKeepsOutOfOthersFolders(t *testing.T) {
	dir := t.TempDir()
	theirs := filepath.Join(dir, "theirs")
	require.NoError(t, os.WriteFile(theirs, nil, 0o600))
	link := filepath.Join(t.TempDir(), "link")
	require.NoError(t, os.Symlink(dir, link))
	for _, at := range []string{dir, link} {
		for _, script := range []string{"demo-clean.sh", "demo.sh"} {
			cmd := exec.Command(filepath.Join("../../scripts", script))
			cmd.Env = append(os.Environ(), "DROVER_DEMO="+at, "DOCKER_HOST=unix:///nowhere/docker.sock")
			out, err := cmd.CombinedOutput()
			if err == nil || !strings.Contains(string(out), "was not made by the demonstration") {
				t.Errorf("%s in a folder of others: %v\n%s", script, err, out)
			}
			if _, err := os.Lstat(theirs); err != nil {
				t.Fatalf("%s removed what was there: %v", script, err)
			}
		}
	}
}

// The commands that the demonstration shows can be pasted.
func TestWordsAreQuoted(t *testing.T) {
	for word, want := range map[string]string{
		"demo-db@gold": "demo-db@gold", "": "''", "{{json .Status}}": "'{{json .Status}}'",
		"insert into t values ('glue')": `"insert into t values ('glue')"`,
		"it's $1":                       `'it'\''s $1'`,
		`"$x" and '!'`:                  `'"$x" and '\''!'\'''`,
	} {
		out, err := exec.Command("bash", "-c", `. ../../scripts/lib.sh; quoted "$1"`, "bash", word).Output()
		if err != nil || string(out) != want {
			t.Errorf("%q: %q, %v, want %q", word, out, err, want)
		}
		back, err := exec.Command("bash", "-c", "printf %s "+string(out)).Output()
		if err != nil || string(back) != word {
			t.Errorf("%q pasted is %q, %v", word, back, err)
		}
	}
}
