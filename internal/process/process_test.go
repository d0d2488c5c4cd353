package process

import (
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"
)

// A process is itself until it ends, also as a zombie and with a name that looks like other fields.
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
	if err := cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	// Its end is awaited without burying it.
	if err := unix.Waitid(unix.P_PID, child.PID, nil, unix.WEXITED|unix.WNOWAIT, nil); err != nil {
		t.Fatal(err)
	}
	want(t, child, true)
	_ = cmd.Wait()
	want(t, child, true)
	if i, err := Of(child.PID); !errors.Is(err, os.ErrNotExist) || i.IsKnown() {
		t.Errorf("%+v, %v", i, err)
	}
}

func want(t *testing.T, i Identity, ended bool) {
	t.Helper()
	if got, err := i.HasEnded(); got != ended || err != nil {
		t.Errorf("%+v has ended: %t, %v; want %t", i, got, err, ended)
	}
}
