package pool

import (
	"path/filepath"
	"time"

	"github.com/google/uuid"

	"github.com/droverhq/drover/backends"
	"github.com/droverhq/drover/dataset"
)

// Record is a pool in the agent's database, under pools/NAME.
type Record struct {
	ID      uuid.UUID    `json:"id"`
	Backend string       `json:"backend"`
	Path    string       `json:"path"`
	Image   dataset.Size `json:"image,omitempty"`
	Mount   string       `json:"mount,omitempty"`
	Devices []string     `json:"devices,omitempty"`
	Trimmed time.Time    `json:"trimmed,omitzero"` // when its devices were last told which blocks are free
	Default bool         `json:"default,omitempty"`
	// Found says that the datasets which were incoming when this node adopted the pool were not examined yet.
	// Doubtful are the incoming datasets of which it is unknown whether they were acknowledged.
	Found    bool        `json:"found,omitempty"`
	Doubtful []uuid.UUID `json:"doubtful,omitempty"`
	// Generation is the highest generation that this node has heard of; see Pool.Held.
	Generation uint64 `json:"generation,omitempty"`
	// Share is the share that the pool was made on; see Pool.inform.
	Share uuid.UUID `json:"share,omitzero"`
	// Leaving says that the pool is being removed. Off says that control has removed it from the store: from then
	// on it may be cleared in part and is no pool any more. See RemovePool.
	Leaving leaving `json:"leaving,omitempty"`
	Off     bool    `json:"off,omitempty"`
}

// leaving says what becomes of a pool that is being removed.
type leaving string

// What becomes of a pool: see Record.Leaving.
const (
	Staying   leaving = ""
	Removed   leaving = "removed"   // what Drover made at its path is removed
	Forgotten leaving = "forgotten" // its path stays as it is
)

// Configured is the configuration with which a recorded pool is opened.
func (r Record) Configured(name string, keys backends.Keys) backends.Config {
	return backends.Config{
		ID:      r.ID,
		Name:    name,
		Path:    r.Path,
		Image:   r.Image,
		Mount:   r.Mount,
		Devices: r.Devices,
		Keys:    keys,
	}
}

// Overlap reports whether one of two pools is located or mounted within the other.
func Overlap(x, y Record) bool {
	for _, p := range x.Places() {
		for _, q := range y.Places() {
			if Within(p, q) || Within(q, p) {
				return true
			}
		}
	}
	return false
}

// apart reports whether the pool shares no filesystem with other files.
func (r Record) apart() bool { return r.Image > 0 || r.Mount != "" || len(r.Devices) > 0 }

// Places are the paths that a pool takes up: its folder or volume group, and the directory where it is mounted.
func (r Record) Places() []string {
	if r.Mount == "" {
		return []string{r.Path}
	}
	return []string{r.Path, r.Mount}
}

// Place returns what drover pool adopt finds a pool by.
func (r Record) Place() string {
	if len(r.Devices) > 0 && r.Path == r.Mount {
		return r.Devices[0]
	}
	return r.Path
}

// TakeBack returns the command that takes the remains of a pool back, so that it can be removed again. when is the
// condition for that.
func (r Record) TakeBack(when string) string {
	return when + ", drover pool adopt " + r.Place() + " takes it back, to be removed again"
}

// Within reports whether path is dir or below it. Both are clean.
func Within(path, dir string) bool {
	rel, err := filepath.Rel(dir, path)
	return err == nil && (rel == "." || (rel != ".." && !hasDotDot(rel)))
}

func hasDotDot(rel string) bool { return len(rel) >= 3 && rel[:3] == "../" }
