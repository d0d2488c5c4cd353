package hand

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"github.com/droverhq/drover/internal/linux/inuse"
	"github.com/droverhq/drover/internal/linux/mount"
)

// group is a control group that can be frozen. It belongs to cgroup version 1 (the freezer controller: cgroups(7),
// freezer-subsystem.rst of the kernel) or to version 2 (cgroup.freeze: cgroup-v2.rst of the kernel).
type group struct {
	kind string // markV1 or markV2
	dir  string
}

// hierarchies contains the mount points of the cgroup hierarchies of this host. The value is "" for a hierarchy that is
// not mounted.
type hierarchies struct{ v1, v2 string }

func hierarchiesOf(table mount.Mounts) hierarchies {
	var h hierarchies
	for _, e := range table {
		switch {
		case e.FSType == "cgroup2" && h.v2 == "":
			h.v2 = e.Mountpoint
		case e.FSType == "cgroup" && h.v1 == "" && slices.Contains(strings.Split(e.VFSOptions, ","), "freezer"):
			h.v1 = e.Mountpoint
		}
	}
	return h
}

// groupOf returns the freezable group of a process. It returns false if there is none: the root groups
// cannot be frozen.
func (h hierarchies) groupOf(pid int) (group, bool) {
	b, err := os.ReadFile(filepath.Join("/proc", strconv.Itoa(pid), "cgroup"))
	if err != nil {
		return group{}, false
	}
	var v1, v2 string
	for line := range strings.Lines(string(b)) {
		f := strings.SplitN(strings.TrimSuffix(line, "\n"), ":", 3)
		if len(f) != 3 {
			continue
		}
		switch {
		case f[0] == "0" && f[1] == "":
			v2 = f[2]
		case slices.Contains(strings.Split(f[1], ","), "freezer"):
			v1 = f[2]
		}
	}
	for _, g := range []struct{ kind, mount, path string }{{markV1, h.v1, v1}, {markV2, h.v2, v2}} {
		// A path that begins with /.. is outside of this cgroup namespace (cgroup_namespaces(7)).
		if g.mount == "" || g.path == "" || g.path == "/" || strings.HasPrefix(g.path, "/..") {
			continue
		}
		found := group{g.kind, filepath.Join(g.mount, g.path)}
		if _, err := os.Stat(found.freezeFile()); err == nil {
			return found, true
		}
	}
	return group{}, false
}

// freezeFile returns the path of the file that freezes and thaws the group.
func (g group) freezeFile() string {
	if g.kind == markV1 {
		return filepath.Join(g.dir, "freezer.state")
	}
	return filepath.Join(g.dir, "cgroup.freeze")
}

// thaw thaws the group. If the group does not exist any more, thaw does nothing.
func (g group) thaw() error { return g.write("THAWED", "0") }

func (g group) write(v1, v2 string) error {
	word := v2
	if g.kind == markV1 {
		word = v1
	}
	f, err := os.OpenFile(g.freezeFile(), os.O_WRONLY, 0)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	_, err = f.WriteString(word)
	return errors.Join(err, f.Close())
}

// isFreezeRequested reports whether a freeze of this group itself was requested, by the guard or another program. A
// freeze of a parent group does not count.
func (g group) isFreezeRequested() bool {
	if g.kind == markV1 {
		return readWord(g.dir, "freezer.self_freezing") == "1"
	}
	return readWord(g.dir, "cgroup.freeze") == "1"
}

// frozen reports whether no task of the group runs.
func (g group) frozen() bool {
	if g.kind == markV1 {
		return readWord(g.dir, "freezer.state") == "FROZEN"
	}
	b, _ := os.ReadFile(filepath.Join(g.dir, "cgroup.events"))
	return inuse.Field(b, "frozen") == "1"
}

// readWord returns the content of a file without surrounding blanks, or "" if it cannot be read.
func readWord(dir, file string) string {
	b, _ := os.ReadFile(filepath.Join(dir, file))
	return strings.TrimSpace(string(b))
}

// members returns the processes of the group and of the groups below it, which are frozen with it.
func (g group) members() ([]int, error) {
	var pids []int
	err := filepath.WalkDir(g.dir, func(path string, d fs.DirEntry, err error) error {
		if errors.Is(err, fs.ErrNotExist) {
			return nil // the group was removed meanwhile
		}
		if err != nil || !d.IsDir() {
			return err
		}
		b, err := os.ReadFile(filepath.Join(path, "cgroup.procs"))
		if errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		if err != nil {
			return err
		}
		for w := range strings.FieldsSeq(string(b)) {
			pid, err := strconv.Atoi(w)
			if err != nil {
				return err
			}
			pids = append(pids, pid)
		}
		return nil
	})
	return pids, err
}
