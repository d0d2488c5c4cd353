package process

import (
	"fmt"
	"os"
	"os/user"
	"strings"
)

// User returns the name of the real user of a process according to the host's passwd file, or the number of the user
// if it has no name. The number is that of the host, also for a process in a user namespace.
func User(pid int) (string, error) {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		return "", fmt.Errorf("read the user of process %d: %w", pid, err)
	}
	for line := range strings.Lines(string(b)) {
		ids, found := strings.CutPrefix(line, "Uid:")
		fields := strings.Fields(ids)
		if !found || len(fields) == 0 {
			continue
		}
		if known, err := user.LookupId(fields[0]); err == nil {
			return known.Username, nil
		}
		return fields[0], nil
	}
	return "", fmt.Errorf("read the user of process %d: the kernel reports none", pid)
}

// Container returns the full ID of the container that a process belongs to, and the engine of the container: docker,
// podman, or "" if the engine is another one. The control group of the process shows them. The ID is "" if the process
// belongs to no container.
func Container(pid int) (id, engine string, err error) {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/cgroup", pid))
	if err != nil {
		return "", "", fmt.Errorf("read the container of process %d: %w", pid, err)
	}
	id, engine = containerOf(string(b))
	return id, engine, nil
}

// containerIDLength is the length of the IDs of Docker, Podman and containerd, in hexadecimal digits.
const containerIDLength = 64

// containerOf finds the innermost container in the content of a cgroup file. Engines name the group of a container
// after its ID: docker-ID.scope or libpod-ID.scope with systemd, and ID or libpod-ID otherwise. Podman's monitor
// conmon is in the group libpod-conmon-ID, and belongs to the container too.
func containerOf(cgroups string) (id, engine string) {
	for line := range strings.Lines(cgroups) {
		parts := strings.SplitN(strings.TrimSpace(line), ":", 3)
		if len(parts) < 3 {
			continue
		}
		for group := range strings.SplitSeq(parts[2], "/") {
			name := strings.TrimSuffix(group, ".scope")
			prefix := ""
			if i := strings.LastIndex(name, "-"); i >= 0 {
				prefix, name = name[:i], name[i+1:]
			}
			if len(name) != containerIDLength || strings.Trim(name, "0123456789abcdef") != "" {
				continue
			}
			id = name
			switch {
			case strings.HasPrefix(prefix, "libpod"):
				engine = "podman"
			case prefix == "docker", prefix == "" && !strings.Contains(parts[2], "kubepods"):
				engine = "docker"
			default:
				engine = ""
			}
		}
		if id != "" {
			return id, engine
		}
	}
	return "", ""
}
