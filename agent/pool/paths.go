package pool

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"slices"

	"github.com/google/uuid"

	"github.com/droverhq/drover/backends"
	"github.com/droverhq/drover/control/api"
	"github.com/droverhq/drover/dataset"
	"github.com/droverhq/drover/internal/linux/mount"
	"github.com/droverhq/drover/internal/safefile"
)

// RequestedRecord returns the record of a requested pool, without a UUID.
func (t *Pools) RequestedRecord(n api.NewPool) (Record, error) {
	rec := Record{Backend: n.Backend, Path: n.Path, Devices: n.Devices, Overcommit: n.Overcommit}
	if err := dataset.CheckOvercommit(n.Overcommit); err != nil {
		return rec, fmt.Errorf("pool %s: %w", n.Name, err)
	}
	for _, path := range append(slices.Clone(n.Devices), n.Path) {
		if path == "" && len(n.Devices) > 0 {
			continue
		}
		if clean := filepath.Clean("/" + path); clean != path {
			return rec, dataset.Errorf(dataset.ErrInvalid,
				"pool %s: path %q is not absolute and clean: expected one such as %s", n.Name, path, clean)
		}
	}
	if n.Image != "" {
		if len(n.Devices) > 0 {
			return rec, dataset.Errorf(dataset.ErrInvalid, "pool %s: image and devices exclude each other",
				n.Name)
		}
		size, err := dataset.ParseSize(n.Image)
		if err != nil {
			return rec, err
		}
		rec.Image = size
	}
	t.SetPlace(n.Name, &rec)
	return rec, nil
}

// SetPlace fills in the path and the mount point of a pool, if the operator named none.
func (t *Pools) SetPlace(name string, rec *Record) {
	// A path below /dev is a device or volume group and not a directory, so the backend mounts a filesystem.
	if rec.Image > 0 || len(rec.Devices) > 0 || IsWithin(rec.Path, "/dev") {
		rec.Mount = t.ImageMount(name)
	}
	if rec.Path != "" || len(rec.Devices) == 0 {
		return
	}
	kind, err := t.Backends.Kind(rec.Backend)
	if former, ok := kind.(backends.BlockDeviceKind); ok && err == nil {
		rec.Path = former.PathOf(name, rec.Mount)
	}
}

// checkPlace fails if something other than the backend could remove or move a new pool at its path. That is so if the
// path is below another pool (also through a bind mount), below the data root of a container engine, or below the
// agent's folder of mount points. The backend checks the folder itself. checkPlace changes nothing.
func (t *Pools) checkPlace(name string, rec Record) error {
	ways, err := pathAliases(rec.Path)
	if err != nil {
		return nil // the backend reports a part of the path that does not exist
	}
	for _, path := range ways {
		if why := t.reservedBy(path); why != "" {
			if path != ways[0] {
				why += ", which is seen at " + rec.Path + " as well"
			}
			return dataset.Errorf(dataset.ErrInvalid, "pool %s: %s is inside %s: choose a path outside of it", name,
				rec.Path, why)
		}
	}
	return nil
}

// RemoveMountPoint removes the empty mount point of a pool that could not be made, or that already exists at another
// path.
func (t *Pools) RemoveMountPoint(name string) {
	if _, there := t.ByName(name); !there {
		_ = os.Remove(t.ImageMount(name)) // a folder that stays does no harm
	}
}

// pathAliases returns all paths that lead to the path of a new pool. There are several if a folder is also bind-mounted
// elsewhere.
func pathAliases(path string) ([]string, error) {
	parent, err := filepath.EvalSymlinks(filepath.Dir(path))
	if err != nil {
		return nil, err
	}
	mounts, err := mount.Table()
	if err != nil {
		return nil, err
	}
	path = filepath.Join(parent, filepath.Base(path))
	if mounts.At(path) != nil {
		return mounts.PathsTo(path), nil
	}
	ways := mounts.PathsTo(parent)
	for i, way := range ways {
		ways[i] = filepath.Join(way, filepath.Base(path))
	}
	return ways, nil
}

// reservedBy returns the owner of a path at which no pool may be made, or "" if a pool may be made there.
func (t *Pools) reservedBy(path string) string {
	if mounts := t.MountRoot(); IsWithin(path, mounts) {
		return mounts + ", where volumes are mounted"
	}
	for at := path; ; at = filepath.Dir(at) {
		if id := poolAt(at); id != uuid.Nil && at != path {
			return fmt.Sprintf("pool %s, whose folder is %s", id, at)
		}
		if isEngineRoot(at) {
			return at + ", where a container engine keeps its data, and may remove it"
		}
		if at == filepath.Dir(at) {
			return ""
		}
	}
}

// poolAt returns the UUID of the pool whose marker is in a folder, of any backend.
func poolAt(dir string) uuid.UUID {
	var mark struct {
		ID      uuid.UUID
		Backend string
	}
	raw, err := safefile.Read(filepath.Join(dir, "pool.json"))
	if err != nil || json.Unmarshal(raw, &mark) != nil || mark.Backend == "" {
		return uuid.Nil
	}
	return mark.ID
}

// isEngineRoot reports whether a folder is the data root of Docker or containerd. It examines the files in the
// folder, because Drover asks no engine (invariant I10 in docs/invariants.md) and the data root may be anywhere.
func isEngineRoot(dir string) bool {
	has := func(names ...string) bool {
		for _, name := range names {
			if info, err := os.Lstat(filepath.Join(dir, name)); err != nil || !info.IsDir() {
				return false
			}
		}
		return true
	}
	info, err := os.Lstat(filepath.Join(dir, "engine-id"))
	return err == nil && info.Mode().IsRegular() || has("containers", "image", "volumes") ||
		has("io.containerd.metadata.v1.bolt")
}

// ImageMount returns the path at which a pool's image is mounted, with symbolic links resolved as in the kernel's mount
// table.
func (t *Pools) ImageMount(name string) string {
	dir := filepath.Join(t.Root, "pools")
	if there, err := filepath.EvalSymlinks(dir); err == nil {
		dir = there
	}
	return filepath.Join(dir, name)
}
