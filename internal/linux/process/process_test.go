package process

import (
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/droverhq/drover/test/require"
)

// The identity of a process stays the same until it ends, also if its name looks like other fields of
// the stat file. A zombie counts as ended.
func TestIdentity(t *testing.T) {
	own, err := Of(os.Getpid())
	if err != nil || !own.IsKnown() {
		t.Fatalf("%+v, %v", own, err)
	}
	want(t, own, false)
	want(t, Identity{own.PID, own.Start + 1}, true) // an earlier process had its PID

	name := filepath.Join(t.TempDir(), "a) Z 1")
	sleep, err := exec.LookPath("sleep")
	if err == nil {
		err = os.Symlink(sleep, name)
	}
	require.NoError(t, err)
	cmd := exec.Command(name, "infinity")
	require.NoError(t, cmd.Start())
	child, err := Of(cmd.Process.Pid)
	require.NoError(t, err)
	want(t, child, false)
	if program, err := child.Program(); err != nil || program != filepath.Base(sleep) {
		t.Errorf("%q, %v", program, err)
	}
	if program, err := (Identity{child.PID, child.Start + 1}).Program(); err == nil {
		t.Errorf("an earlier process with the same PID runs %q", program)
	}
	require.NoError(t, cmd.Process.Kill())
	// Wait for the end of the process without reaping it.
	require.NoError(t, unix.Waitid(unix.P_PID, child.PID, nil, unix.WEXITED|unix.WNOWAIT, nil))
	want(t, child, true)
	if program, err := child.Program(); err == nil {
		t.Errorf("a process that has ended runs %q", program)
	}
	_ = cmd.Wait()
	want(t, child, true)
	if i, err := Of(child.PID); !errors.Is(err, os.ErrNotExist) || i.IsKnown() {
		t.Errorf("%+v, %v", i, err)
	}
}

// Program returns the same name after an upgrade has replaced the file.
func TestProgramIsReplaced(t *testing.T) {
	sleep, err := exec.LookPath("sleep")
	require.NoError(t, err)
	binary, err := os.ReadFile(sleep)
	require.NoError(t, err)
	path := filepath.Join(t.TempDir(), "podman")
	require.NoError(t, os.WriteFile(path, binary, 0o755))
	cmd := exec.Command(path, "infinity")
	require.NoError(t, cmd.Start())
	defer func() { _ = cmd.Wait() }()
	defer func() { _ = cmd.Process.Kill() }()
	require.NoError(t, os.Remove(path))
	child, err := Of(cmd.Process.Pid)
	require.NoError(t, err)
	if program, err := child.Program(); err != nil || program != "podman" {
		t.Errorf("%q, %v", program, err)
	}
}

func want(t *testing.T, i Identity, ended bool) {
	t.Helper()
	if got, err := i.HasEnded(); got != ended || err != nil {
		t.Errorf("%+v has ended: %t, %v; want %t", i, got, err, ended)
	}
}
