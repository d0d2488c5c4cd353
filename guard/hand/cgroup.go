package hand

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"github.com/droverhq/drover/internal/mount"
)

// group is a control group that can be frozen, of the first version (the freezer
// controller, cgroups(7) and the kernel's freezer-subsystem.rst) or the second
// (cgroup.freeze, the kernel's cgroup-v2.rst).
type group struct {
	kind string // markV1 or markV2
	dir  string
}

// hierarchies are where the control groups of this host are mounted, "" where not.
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

// groupOf returns the group of a process that can be frozen; none when it is in the root
// groups, which cannot.
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
		// A path that climbs out is of another cgroup namespace (cgroup_namespaces(7)).
		if g.mount == "" || g.path == "" || g.path == "/" || strings.HasPrefix(g.path, "/..") {
			continue
		}
		found := group{g.kind, filepath.Join(g.mount, g.path)}
		if _, err := os.Stat(found.control()); err == nil {
			return found, true
		}
	}
	return group{}, false
}

func (g group) control() string {
	if g.kind == markV1 {
		return filepath.Join(g.dir, "freezer.state")
	}
	return filepath.Join(g.dir, "cgroup.freeze")
}

// freeze and thaw begin; frozen tells when no task of the group runs any more. A group
// that is gone has none.
func (g group) freeze() error { return g.write("FROZEN", "1") }

func (g group) thaw() error { return g.write("THAWED", "0") }

func (g group) write(v1, v2 string) error {
	word := v2
	if g.kind == markV1 {
		word = v1
	}
	f, err := os.OpenFile(g.control(), os.O_WRONLY, 0)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	_, err = f.WriteString(word)
	return errors.Join(err, f.Close())
}

// asked tells whether somebody has asked for the freeze of this very group.
func (g group) asked() bool {
	if g.kind == markV1 {
		return word(g.dir, "freezer.self_freezing") == "1"
	}
	return word(g.dir, "cgroup.freeze") == "1"
}

func (g group) frozen() bool {
	if g.kind == markV1 {
		return word(g.dir, "freezer.state") == "FROZEN"
	}
	b, _ := os.ReadFile(filepath.Join(g.dir, "cgroup.events"))
	return field(b, "frozen") == "1"
}

func word(dir, file string) string {
	b, _ := os.ReadFile(filepath.Join(dir, file))
	return strings.TrimSpace(string(b))
}

// members returns the processes of the group and of those below it, which are frozen with
// it.
func (g group) members() ([]int, error) {
	var pids []int
	err := filepath.WalkDir(g.dir, func(path string, d fs.DirEntry, err error) error {
		if errors.Is(err, fs.ErrNotExist) {
			return nil // a group went
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
