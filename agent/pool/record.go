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
	Trimmed time.Time    `json:"trimmed,omitzero"` // when the free blocks of its devices were last discarded
	Default bool         `json:"default,omitempty"`
	// Overcommit is the highest ratio of the total size of its volumes to its own size. 0 means not limited.
	Overcommit float64 `json:"overcommit,omitempty"`
	// OvercommitConfigured is true if Overcommit is from drover.yaml. If a later drover.yaml lacks it, the pool has no
	// limit any more. If false, it was set by drover pool create or drover pool set, and stays.
	OvercommitConfigured bool `json:"overcommit_configured,omitempty"`
	// OvercommitUnknown is true after this node found or adopted the pool without a record of it, until Overcommit was
	// read from the pool: see backends.PolicyKeeper.
	OvercommitUnknown bool `json:"overcommit_unknown,omitempty"`
	// Unexamined is true after this node adopted the pool, or found it without having a record of it, until the
	// incoming datasets of the pool have been examined. Doubtful lists the incoming datasets that may have been
	// acknowledged.
	Unexamined bool        `json:"found,omitempty"`
	Doubtful   []uuid.UUID `json:"doubtful,omitempty"`
	// Generation is the highest generation that this node has heard of; see Pool.QuarantineReason.
	Generation uint64 `json:"generation,omitempty"`
	// Share is the share that the pool was made on; see Pool.checkShare.
	Share uuid.UUID `json:"share,omitzero"`
	// Leaving is set while the pool is being removed. Unrecorded is true once control has removed the pool from its
	// store: the pool may then be cleared in part. See pooladmin.Admin.
	Leaving    leaving `json:"leaving,omitempty"`
	Unrecorded bool    `json:"off,omitempty"`
}

// withOvercommit returns the record with the policy for overcommit that drover.yaml defines; 0 means that it defines
// none.
func (r Record) withOvercommit(configured float64) Record {
	switch {
	case configured > 0:
		r.Overcommit, r.OvercommitConfigured, r.OvercommitUnknown = configured, true, false
	case r.OvercommitConfigured:
		r.Overcommit, r.OvercommitConfigured = 0, false
	}
	return r
}

// leaving says what happens to the path of a pool that is being removed.
type leaving string

// The values of Record.Leaving.
const (
	NotLeaving       leaving = ""
	LeavingRemoved   leaving = "removed"   // the files that Drover made at its path are removed
	LeavingForgotten leaving = "forgotten" // its path stays as it is
)

// Config is the configuration with which a recorded pool is opened.
func (r Record) Config(name string, keys backends.Keys, mountRoot string) backends.Config {
	return backends.Config{
		ID:        r.ID,
		Name:      name,
		Path:      r.Path,
		Image:     r.Image,
		Mount:     r.Mount,
		MountRoot: mountRoot,
		Devices:   r.Devices,
		Keys:      keys,
	}
}

// Overlap reports whether one of two pools is located or mounted within the other.
func Overlap(x, y Record) bool {
	for _, p := range x.Paths() {
		for _, q := range y.Paths() {
			if IsWithin(p, q) || IsWithin(q, p) {
				return true
			}
		}
	}
	return false
}

// hasOwnMount reports whether Drover mounts a filesystem for this pool only.
func (r Record) hasOwnMount() bool { return r.Image > 0 || r.Mount != "" || len(r.Devices) > 0 }

// Paths returns the paths that a pool occupies: its folder or volume group, and the directory where it is mounted.
func (r Record) Paths() []string {
	if r.Mount == "" {
		return []string{r.Path}
	}
	return []string{r.Path, r.Mount}
}

// AdoptPath returns the path or device that drover pool adopt needs to find the pool.
func (r Record) AdoptPath() string {
	if len(r.Devices) > 0 && r.Path == r.Mount {
		return r.Devices[0]
	}
	return r.Path
}

// AdoptHint returns a hint for a pool that is being removed: the command drover pool adopt that brings the pool back,
// so that its removal can be repeated. The hint begins with when, a text that says in which case the command is needed.
func (r Record) AdoptHint(when string) string {
	return when + ", drover pool adopt " + r.AdoptPath() + " adopts it, so that it can be removed again"
}

// IsWithin reports whether path is dir or below it. Both paths must be clean.
func IsWithin(path, dir string) bool {
	rel, err := filepath.Rel(dir, path)
	return err == nil && filepath.IsLocal(rel)
}
