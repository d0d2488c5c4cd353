package process

import (
	"fmt"
	"os"
	"os/user"
	"slices"
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
	own, err := os.ReadFile("/proc/self/cgroup")
	if err != nil {
		return "", "", fmt.Errorf("read the control group of this process: %w", err)
	}
	id, engine = containerOf(string(b), string(own))
	return id, engine, nil
}

// containerIDLength is the length of the IDs of Docker, Podman and containerd, in hexadecimal digits.
const containerIDLength = 64

// containerOf finds the container in the content of a cgroup file. own is the content of the cgroup file of this
// process. Engines name the group of a container after its ID: docker-ID.scope or libpod-ID.scope with systemd, and ID
// or libpod-ID otherwise. Podman's monitor conmon is in the group libpod-conmon-ID, and belongs to the container too.
//
// A container can create groups below its own and name them after another container. So the outermost container counts.
// Groups that this process is in too do not count: this host may itself be a container. If no other group is named
// after a container, the innermost common group that is named after one counts: both processes are then in that
// container.
func containerOf(cgroups, own string) (id, engine string) {
	ownPaths := map[string]string{}
	for _, h := range hierarchies(own) {
		ownPaths[h.name] = h.path
	}
	for _, h := range hierarchies(cgroups) {
		groups := strings.Split(h.path, "/")
		shared := commonLength(groups, strings.Split(ownPaths[h.name], "/"))
		for _, group := range groups[shared:] {
			if id, engine = containerOfGroup(group, h.path); id != "" {
				return id, engine
			}
		}
		for _, group := range slices.Backward(groups[:shared]) {
			if id, engine = containerOfGroup(group, h.path); id != "" {
				return id, engine
			}
		}
	}
	return "", ""
}

// hierarchy is a line of a cgroup file: the control group of a process in one hierarchy.
type hierarchy struct{ name, path string }

// hierarchies parses a cgroup file (cgroups(7)).
func hierarchies(cgroups string) (list []hierarchy) {
	for line := range strings.Lines(cgroups) {
		if parts := strings.SplitN(strings.TrimSpace(line), ":", 3); len(parts) == 3 {
			list = append(list, hierarchy{parts[1], parts[2]})
		}
	}
	return list
}

// commonLength returns how many elements at the beginning of a and b are equal.
func commonLength(a, b []string) (n int) {
	for n < min(len(a), len(b)) && a[n] == b[n] {
		n++
	}
	return n
}

// containerOfGroup returns the container after which a group is named, or "" if there is none. path is the path of the
// control group of the process.
func containerOfGroup(group, path string) (id, engine string) {
	id = strings.TrimSuffix(group, ".scope")
	prefix := ""
	if i := strings.LastIndex(id, "-"); i >= 0 {
		prefix, id = id[:i], id[i+1:]
	}
	if len(id) != containerIDLength || strings.Trim(id, "0123456789abcdef") != "" {
		return "", ""
	}
	switch {
	case strings.HasPrefix(prefix, "libpod"):
		engine = "podman"
	case prefix == "docker", prefix == "" && !strings.Contains(path, "kubepods"):
		engine = "docker"
	}
	return id, engine
}
