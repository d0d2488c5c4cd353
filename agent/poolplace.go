package agent

import (
	"encoding/json"
	"os"
	"path/filepath"

	"github.com/google/uuid"

	"github.com/droverhq/drover/dataset"
)

// placed refuses a new pool where other things than its backend would take it along: below
// another pool, whichever way leads there, in the folder of an engine, or among the mounts. The
// backend says whether the folder itself will do. Nothing is changed.
func (p *pools) placed(name string, rec poolRecord) error {
	parent, err := filepath.EvalSymlinks(filepath.Dir(rec.Path))
	if err != nil {
		return nil // its backend says what is absent
	}
	path := filepath.Join(parent, filepath.Base(rec.Path))
	if mounts := p.a.mountRoot(); within(path, mounts) {
		return dataset.Errorf(dataset.ErrInvalid, "pool %s: %s lies in %s, where volumes are mounted: give a path outside of it", name, rec.Path, mounts)
	}
	for at := path; ; at = filepath.Dir(at) {
		if id := poolAt(at); id != uuid.Nil && at != path {
			return dataset.Errorf(dataset.ErrInvalid, "pool %s: %s lies in pool %s, whose folder is %s: give a path outside of it", name, rec.Path, id, at)
		}
		if ofEngine(at) {
			return dataset.Errorf(dataset.ErrInvalid, "pool %s: %s lies in %s, where a container engine keeps what it owns and removes: give a path outside of it", name, rec.Path, at)
		}
		if at == filepath.Dir(at) {
			return nil
		}
	}
}

// poolAt returns the UUID of the pool that has its marker in a folder, of whatever backend.
func poolAt(dir string) uuid.UUID {
	var mark struct {
		ID      uuid.UUID
		Backend string
	}
	raw, err := os.ReadFile(filepath.Join(dir, "pool.json"))
	if err != nil || json.Unmarshal(raw, &mark) != nil || mark.Backend == "" {
		return uuid.Nil
	}
	return mark.ID
}

// ofEngine tells whether a folder is the data root of Docker or containerd, by what they put
// there: no engine is asked (I10), and its root may be anywhere.
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
	return err == nil && info.Mode().IsRegular() || has("containers", "image", "volumes") || has("io.containerd.metadata.v1.bolt")
}
