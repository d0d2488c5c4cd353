package projects

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/droverhq/drover/dataset"
	"github.com/droverhq/drover/internal/safefile"
)

// source is the volume or the directory behind one or several mounts of a project.
type source struct {
	id     string // the key of a volume, or the path of a bind mount; empty for a mount without a source
	dir    bool   // a bind mount
	uses   []use
	name   string // of the volume for the engine
	folder string // the folder with the data; empty if there is none
	empty  bool   // the volume does not exist yet
	reason string // why it is not moved; empty if it is moved
}

// label names a source for people: as a path below the project's folder if it is one.
func (s source) label(dir string) string {
	if !s.dir {
		return "volume " + s.name
	}
	if rel, err := filepath.Rel(dir, s.id); err == nil && rel != ".." && !strings.HasPrefix(rel, "../") {
		return strings.TrimSuffix("./"+rel, "/.")
	}
	return s.id
}

// readOnly reports whether all mounts of a source are read-only.
func (s source) readOnly() bool {
	return !slices.ContainsFunc(s.uses, func(u use) bool { return !u.ReadOnly })
}

// sourcesOf groups the mounts of a model by their sources, in the order of services and targets.
func sourcesOf(m model) []*source {
	var out []*source
	for _, u := range m.uses() {
		s := &source{id: u.Source, dir: u.Type == "bind", uses: []use{u}}
		switch {
		case u.Type == "tmpfs":
			s.reason = "a tmpfs has no data"
		case u.Type == "volume" && u.Source == "":
			s.reason = "it is an anonymous volume (give it a name in the Compose file first)"
		case u.Type == "volume":
			s.name = m.volumes[u.Source].Name
		case u.Type != "bind":
			s.reason = "it is a mount of type " + dataset.Clip(u.Type)
		}
		i := slices.IndexFunc(out, func(o *source) bool { return s.id != "" && o.id == s.id && o.dir == s.dir })
		if i < 0 || s.reason != "" {
			out = append(out, s)
			continue
		}
		out[i].uses = append(out[i].uses, u)
	}
	return out
}

// systemFolders and systemTrees are folders of the host that belong to no project. Everything below a folder in
// systemTrees belongs to no project either.
var (
	systemFolders = []string{"/", "/home", "/media", "/mnt", "/opt", "/root", "/srv", "/tmp", "/var", "/var/cache",
		"/var/lib", "/var/log", "/var/spool", "/var/tmp"}
	systemTrees = []string{"/bin", "/boot", "/dev", "/etc", "/lib", "/lib64", "/proc", "/run", "/sbin", "/sys", "/usr",
		"/var/lib/docker", "/var/run"}
)

func isSystemFolder(path string) bool {
	return slices.Contains(systemFolders, path) ||
		slices.ContainsFunc(systemTrees, func(dir string) bool { return isWithin(path, dir) })
}

func isWithin(path, dir string) bool {
	rel, err := filepath.Rel(dir, path)
	return err == nil && rel != ".." && !strings.HasPrefix(rel, "../")
}

// overlaps reports whether one of two paths contains the other.
func overlaps(a, b string) bool { return a != "" && b != "" && (isWithin(a, b) || isWithin(b, a)) }

// inspectDir examines the directory of a bind mount. It sets the reason if the directory is not moved.
func (s *source) inspectDir(p Project, h Host) error {
	folder := resolved(s.id)
	info, err := os.Stat(folder)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		s.reason = "it does not exist yet"
		return nil
	case err != nil:
		return err
	case info.Mode()&fs.ModeSocket != 0:
		s.reason = "it is a socket"
	case info.Mode()&fs.ModeDevice != 0:
		s.reason = "it is a device"
	case !info.IsDir():
		s.reason = "it is a single file"
	case isSystemFolder(s.id) || isSystemFolder(folder):
		s.reason = "it is a folder of the system"
	case s.readOnly() && !isWithin(s.id, p.Dir) && !isWithin(folder, resolved(p.Dir)):
		s.reason = "it is read-only, and outside of the project's folder"
	case isWithin(resolved(p.Dir), folder) ||
		slices.ContainsFunc(p.Files, func(f string) bool { return isWithin(resolved(f), folder) }):
		s.reason = "it contains the Compose file"
	}
	if s.reason != "" {
		return nil
	}
	dir, err := safefile.OpenFolder(folder)
	if err != nil {
		s.reason = "Drover cannot import it: " + err.Error()
		return nil
	}
	if err := dir.Close(); err != nil {
		return err
	}
	points, err := h.MountPoints(folder)
	if err != nil {
		return err
	}
	if len(points) > 0 {
		s.reason = "another filesystem is mounted in it, at " + points[0]
	}
	s.folder = folder
	return nil
}

// inspectVolume examines a volume. It sets the reason if the volume is not moved.
func (s *source) inspectVolume(ctx context.Context, e Engine, def modelVolume) error {
	v, err := e.Volume(ctx, s.name)
	switch {
	case errors.Is(err, dataset.ErrNotFound) && def.External:
		s.reason = "it is external, and does not exist"
		return nil
	case errors.Is(err, dataset.ErrNotFound) && def.Driver != "" && def.Driver != "local":
		s.reason = "it has the driver " + dataset.Clip(def.Driver)
		return nil
	case errors.Is(err, dataset.ErrNotFound) && len(def.DriverOpts) > 0:
		s.reason = "it does not exist yet, and has options of the driver local"
		return nil
	case errors.Is(err, dataset.ErrNotFound):
		s.empty = true
		return nil
	case err != nil:
		return err
	case v.Driver != "local":
		s.reason = "it has the driver " + dataset.Clip(v.Driver)
		return nil
	}
	s.folder, err = e.Folder(ctx, s.name)
	s.folder = resolved(s.folder)
	if errors.Is(err, dataset.ErrUnsupported) {
		s.reason = err.Error()
		return nil
	}
	return err
}

// skipOverlaps skips sources that contain each other: after a copy, the containers would no longer see the same files.
// Two kinds of directories are not compared, because they can contain everything: folders of the system, and read-only
// directories outside of the folder of the project, which is dir.
func skipOverlaps(all []*source, dir string) {
	path := func(s *source) string {
		if s.dir && (isSystemFolder(s.id) || s.folder == "" && s.readOnly() && !isWithin(s.id, dir)) {
			return ""
		}
		if s.dir {
			return resolved(s.id)
		}
		return s.folder
	}
	for i, s := range all {
		for j, o := range all {
			if i != j && s.reason == "" && overlaps(path(s), path(o)) {
				s.reason = "it overlaps with " + o.label(dir) + ", which is mounted too"
			}
		}
	}
}

// sharer returns the name of a container that uses a source and is not a container of the project's services; "" if
// there is none. A container that has a folder above the source read-only, such as a monitor that sees the whole host,
// does not count.
func (s *source) sharer(p Project, m model, all []Container) string {
	for _, c := range all {
		_, known := m.services[c.Service]
		if c.Project == p.Name && known && !c.OneOff {
			continue
		}
		for _, x := range c.Mounts {
			if x.Type == "volume" && !s.dir && x.Name == s.name || s.folder != "" && sees(x, s.folder) {
				return c.Name
			}
		}
	}
	return ""
}

// sees reports whether a mount can change a folder, or shows a part of it.
func sees(x Mount, folder string) bool {
	if x.ReadOnly && x.Source != folder && isWithin(folder, x.Source) {
		return false
	}
	return overlaps(x.Source, folder)
}

func samePath(a, b string) bool {
	if a == b {
		return true
	}
	ra, errA := filepath.EvalSymlinks(a)
	rb, errB := filepath.EvalSymlinks(b)
	return errA == nil && errB == nil && ra == rb
}
