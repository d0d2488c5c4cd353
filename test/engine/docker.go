package engine

import (
	"bytes"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/droverhq/drover/test/require"
)

// A Result is the output and the exit status of a program.
type Result struct {
	Args   []string
	Stdout string
	Stderr string
	Exit   int
}

// String returns the result for messages of tests.
func (r Result) String() string {
	return strings.Join(r.Args, " ") + "\n" + r.Stdout + r.Stderr
}

// Docker runs the docker command line against the engine and returns the result.
func (e *Engine) Docker(t testing.TB, args ...string) Result {
	t.Helper()
	return e.run(t, "", append([]string{"docker"}, args...))
}

// Must is Docker for a command that must succeed. It returns the standard output without the last newline.
func (e *Engine) Must(t testing.TB, args ...string) string {
	t.Helper()
	r := e.Docker(t, args...)
	if r.Exit != 0 {
		t.Fatalf("exit %d: %v", r.Exit, r)
	}
	return strings.TrimSuffix(r.Stdout, "\n")
}

// Compose runs `docker compose` in a folder. It is the version that tools/compose pins; the first call
// on a machine builds it, which takes a minute or two.
func (e *Engine) Compose(t testing.TB, dir string, args ...string) Result {
	t.Helper()
	plugin, err := Script("tools.sh", "docker-compose")
	require.NoError(t, err)
	link := filepath.Join(e.configDir(), "cli-plugins", "docker-compose")
	require.NoError(t, os.MkdirAll(filepath.Dir(link), 0o700))
	if err := os.Symlink(plugin, link); err != nil && !errors.Is(err, os.ErrExist) {
		t.Fatal(err)
	}
	return e.run(t, dir, append([]string{"docker", "compose"}, args...))
}

// configDir returns the folder that replaces ~/.docker.
func (e *Engine) configDir() string {
	return filepath.Join(e.Dir, "config")
}

func (e *Engine) run(t testing.TB, dir string, args []string) Result {
	t.Helper()
	var stdout, stderr bytes.Buffer
	cmd := exec.Command(args[0], args[1:]...)
	cmd.Dir, cmd.Stdout, cmd.Stderr, cmd.Env = dir, &stdout, &stderr, e.Env()
	err := cmd.Run()
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		t.Fatalf("run %s: %v", args[0], err)
	}
	return Result{Args: args, Stdout: stdout.String(), Stderr: stderr.String(), Exit: cmd.ProcessState.ExitCode()}
}

// Env returns the environment in which docker uses this engine and reads no settings of the user.
func (e *Engine) Env() []string {
	var env []string
	for _, v := range os.Environ() {
		if !strings.HasPrefix(v, "DOCKER_") && !strings.HasPrefix(v, "COMPOSE_") {
			env = append(env, v)
		}
	}
	return append(env, "DOCKER_HOST="+e.Host, "DOCKER_CONFIG="+e.configDir())
}
