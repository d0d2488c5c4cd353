package process

import (
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"
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
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(name, "infinity")
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	child, err := Of(cmd.Process.Pid)
	if err != nil {
		t.Fatal(err)
	}
	want(t, child, false)
	if program, err := child.Program(); err != nil || program != filepath.Base(sleep) {
		t.Errorf("%q, %v", program, err)
	}
	if program, err := (Identity{child.PID, child.Start + 1}).Program(); err == nil {
		t.Errorf("an earlier process with the same PID runs %q", program)
	}
	if err := cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	// Wait for the end of the process without reaping it.
	if err := unix.Waitid(unix.P_PID, child.PID, nil, unix.WEXITED|unix.WNOWAIT, nil); err != nil {
		t.Fatal(err)
	}
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
	if err != nil {
		t.Fatal(err)
	}
	binary, err := os.ReadFile(sleep)
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(t.TempDir(), "podman")
	if err := os.WriteFile(path, binary, 0o755); err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(path, "infinity")
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() { _ = cmd.Wait() }()
	defer func() { _ = cmd.Process.Kill() }()
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
	child, err := Of(cmd.Process.Pid)
	if err != nil {
		t.Fatal(err)
	}
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
