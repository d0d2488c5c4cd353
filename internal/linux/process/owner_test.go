package process

import (
	"os"
	"strings"
	"testing"
)

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
