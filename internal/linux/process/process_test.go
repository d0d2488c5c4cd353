package process

import (
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
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

func TestContainerOf(t *testing.T) {
	id, inner := strings.Repeat("0123456789abcdef", 4), strings.Repeat("fedcba9876543210", 4)
	for name, c := range map[string]struct{ cgroups, own, id, engine string }{
		"host":                             {"0::/system.slice/ssh.service\n", "", "", ""},
		"empty":                            {"", "", "", ""},
		"torn":                             {"0:\n", "", "", ""},
		"docker, systemd":                  {"0::/system.slice/docker-" + id + ".scope\n", "", id, "docker"},
		"docker, cgroupfs":                 {"0::/docker/" + id + "\n", "", id, "docker"},
		"docker, own parent":               {"9:name=systemd:/\n4:memory:/mine/" + id + "\n0::/\n", "", id, "docker"},
		"podman, systemd":                  {"0::/machine.slice/libpod-" + id + ".scope/container\n", "", id, "podman"},
		"podman, cgroupfs":                 {"0::/libpod_parent/libpod-" + id + "\n", "", id, "podman"},
		"podman, conmon":                   {"0::/machine.slice/libpod-conmon-" + id + ".scope\n", "", id, "podman"},
		"containerd":                       {"0::/kubepods.slice/cri-containerd-" + id + ".scope\n", "", id, ""},
		"kubernetes, cgroupfs":             {"0::/kubepods/besteffort/pod1/" + id + "\n", "", id, ""},
		"forged":                           {"0::/docker/" + id + "/docker/" + inner + "\n", "0::/system.slice/drover.service\n", id, "docker"},
		"engine in a container":            {"0::/docker/" + id + "/docker/" + inner + "\n", "0::/docker/" + id + "/drover\n", inner, "docker"},
		"forged beside this process":       {"0::/docker/" + id + "/x/docker-" + inner + ".scope\n", "0::/docker\n", id, "docker"},
		"in the container of this process": {"0::/docker/" + id + "\n", "0::/docker/" + id + "\n", id, "docker"},
		"another hierarchy":                {"4:memory:/docker/" + id + "/docker/" + inner + "\n", "0::/docker/" + id + "\n", id, "docker"},
		"too short":                        {"0::/docker/" + id[1:] + "\n", "", "", ""},
		"not hexadecimal":                  {"0::/docker/g" + id[1:] + "\n", "", "", ""},
	} {
		if id, engine := containerOf(c.cgroups, c.own); id != c.id || engine != c.engine {
			t.Errorf("%s: got %q of %q, want %q of %q", name, id, engine, c.id, c.engine)
		}
	}
}

func TestUser(t *testing.T) {
	name, err := User(os.Getpid())
	if err != nil || name != "root" { // the tests run as root
		t.Errorf("got %q, %v", name, err)
	}
	if name, err := User(1 << 30); err == nil {
		t.Errorf("a process that does not exist has user %q", name)
	}
	if id, _, err := Container(1 << 30); err == nil {
		t.Errorf("a process that does not exist has container %q", id)
	}
}
