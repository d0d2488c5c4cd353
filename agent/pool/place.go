package pool

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"

	"github.com/google/uuid"

	"github.com/droverhq/drover/dataset"
	"github.com/droverhq/drover/internal/linux/mount"
	"github.com/droverhq/drover/internal/safefile"
)

// placed refuses a path for a new pool where something else than its backend would remove or move it: below
// another pool by whichever path, in the folder of an engine, or among the mount points. The backend decides
// about the folder itself. Nothing is changed.
func (p *Pools) placed(name string, rec Record) error {
	ways, err := waysTo(rec.Path)
	if err != nil {
		return nil // the backend reports the absent part
	}
	for _, path := range ways {
		if why := p.misplaced(path); why != "" {
			if path != ways[0] {
				why += ", which is seen at " + rec.Path + " as well"
			}
			return dataset.Errorf(dataset.ErrInvalid, "pool %s: %s lies in %s: give a path outside of it", name,
				rec.Path, why)
		}
	}
	return nil
}

// Tidy removes the empty mount point of a pool that was not made after all, or that turned out to be another one.
func (p *Pools) Tidy(name string) {
	if _, there := p.ByName(name); !there {
		_ = os.Remove(p.ImageMount(name)) // a folder that stays does no harm
	}
}

// waysTo returns the paths that lead to the path of a new pool. A folder that is bind-mounted elsewhere has
// several.
func waysTo(path string) ([]string, error) {
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
		return mounts.Ways(path), nil
	}
	ways := mounts.Ways(parent)
	for i, way := range ways {
		ways[i] = filepath.Join(way, filepath.Base(path))
	}
	return ways, nil
}

// misplaced returns the owner of a path, if no pool may be there; "" if one may.
func (p *Pools) misplaced(path string) string {
	if mounts := p.Mounts.Root(); Within(path, mounts) {
		return mounts + ", where volumes are mounted"
	}
	for at := path; ; at = filepath.Dir(at) {
		if id := poolAt(at); id != uuid.Nil && at != path {
			return fmt.Sprintf("pool %s, whose folder is %s", id, at)
		}
		if ofEngine(at) {
			return at + ", where a container engine keeps what it owns and removes"
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

// ofEngine reports whether a folder is the data root of Docker or containerd, by the files in it. No engine is
// asked (I10), and its root may be anywhere.
func ofEngine(dir string) bool {
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

// ImageMount returns where a pool's image is mounted, as the kernel spells the path.
func (p *Pools) ImageMount(name string) string {
	dir := filepath.Join(p.Root, "pools")
	if there, err := filepath.EvalSymlinks(dir); err == nil {
		dir = there
	}
	return filepath.Join(dir, name)
}
