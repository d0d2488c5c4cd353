package dataset

import (
	"slices"
	"time"

	"github.com/google/uuid"
)

// VersionRef names the version of a volume that was pushed to a repository, or pulled from it.
type VersionRef struct {
	Repository string    `json:"repository"` // name of the repository
	Name       string    `json:"name"`       // name of the volume in the repository
	Version    uuid.UUID `json:"version"`    // UUID of the version
}

// maxRefs is how many repositories Dataset.BasedOn can have. The oldest are dropped.
const maxRefs = 8

// WithRef returns the list with a version as the one of its repository, which replaces an earlier one. The latest is
// the first. The argument is not changed.
func WithRef(refs []VersionRef, ref VersionRef) []VersionRef {
	rest := slices.DeleteFunc(slices.Clone(refs), func(r VersionRef) bool { return r.Repository == ref.Repository })
	all := append([]VersionRef{ref}, rest...)
	return all[:min(len(all), maxRefs)]
}

// CheckRefs fails with ErrInvalid unless the list can be Dataset.BasedOn. A node can report it.
func CheckRefs(refs []VersionRef) error {
	if len(refs) > maxRefs {
		return Errorf(ErrInvalid, "a dataset is based on %d versions (%d at most)", len(refs), maxRefs)
	}
	for _, r := range refs {
		if err := CheckRepositoryName(r.Repository); err != nil {
			return err
		}
		if err := CheckName(r.Name); err != nil {
			return err
		}
		if r.Version == uuid.Nil {
			return Errorf(ErrInvalid, "a dataset is based on a version of %s/%s without a UUID", r.Repository, r.Name)
		}
	}
	return nil
}

// Push says where a push operation puts a volume.
type Push struct {
	Name string `json:"name"` // name of the volume in the repository
	By   string `json:"by"`   // who requested the push
}

// PushedVersion is a version of a volume that was pushed, as its repository describes it. The repository may be wrong.
type PushedVersion struct {
	ID         uuid.UUID `json:"id"`              // UUID of the version; that of the operation that pushed it
	Repository string    `json:"repository"`      // name of the repository
	Name       string    `json:"name"`            // name of the volume in the repository
	Parent     uuid.UUID `json:"parent,omitzero"` // UUID of the version that it continues; absent: it is the first
	Backup     string    `json:"backup"`          // ID of the backup with the data
	// moment whose content the version has; absent: the backup was removed
	Taken   time.Time `json:"taken,omitzero"`
	Pushed  time.Time `json:"pushed"`            // when it was pushed, by the clock of the node that pushed it
	Volume  string    `json:"volume"`            // name of the volume that was pushed
	Dataset uuid.UUID `json:"dataset"`           // UUID of the dataset of that volume
	Node    string    `json:"node,omitempty"`    // name of the node that pushed it
	By      string    `json:"by,omitempty"`      // who requested the push
	Removed bool      `json:"removed,omitempty"` // the backup with its data was removed
	Newest  bool      `json:"newest,omitempty"`  // no other version of the name continues it
}

// Describe names a version, when it was pushed, and by whom, for an error.
func (v PushedVersion) Describe() string {
	text := v.ID.String()[:8] + ", pushed " + v.Pushed.UTC().Format(time.DateTime) + " UTC"
	if v.By != "" {
		text += " by " + v.By
	}
	if v.Node != "" {
		text += " on " + v.Node
	}
	return text
}

// History has all versions in a repository, of all names. Its methods read it only.
type History []PushedVersion

// OfName returns the versions of a name, in their order.
func (h History) OfName(name string) (found []PushedVersion) {
	for _, v := range h {
		if v.Name == name {
			found = append(found, v)
		}
	}
	return found
}

// Find returns the version with a UUID.
func (h History) Find(id uuid.UUID) (PushedVersion, bool) {
	i := slices.IndexFunc(h, func(v PushedVersion) bool { return v.ID == id })
	if i < 0 {
		return PushedVersion{}, false
	}
	return h[i], true
}

// Newest returns the versions of a name that have their data and that no other such version of the name continues,
// directly or through others. There are several if both sides have changed, and none if nothing was pushed to the name.
func (h History) Newest(name string) (newest []PushedVersion) {
	parents := h.parents()
	continued := map[uuid.UUID]bool{}
	var all []PushedVersion
	for _, v := range h.OfName(name) {
		if v.Removed {
			continue
		}
		all = append(all, v)
		// A walk ends where an earlier one has passed, so a history with a cycle has an end, too.
		for at := parents[v.ID]; at != uuid.Nil && !continued[at] && at != v.ID; at = parents[at] {
			continued[at] = true
		}
	}
	for _, v := range all {
		if !continued[v.ID] {
			newest = append(newest, v)
		}
	}
	return newest
}

// Ancestors returns the UUIDs of versions and of all versions that they continue.
func (h History) Ancestors(ids ...uuid.UUID) map[uuid.UUID]bool {
	parents := h.parents()
	found := map[uuid.UUID]bool{}
	for _, id := range ids {
		for at := id; at != uuid.Nil && !found[at]; at = parents[at] {
			found[at] = true
		}
	}
	return found
}

// Names reports whether a reference names a version. Its UUID is not enough: everybody with the password of another
// repository can store a version with the same UUID there.
func (r VersionRef) Names(v PushedVersion) bool {
	return r.Version == v.ID && r.Repository == v.Repository
}

// Bases returns the versions on which a dataset is based: those that were pushed from it, and those in refs that the
// repository has. The latest is the last.
func (h History) Bases(id uuid.UUID, refs []VersionRef) (bases []PushedVersion) {
	for _, v := range h {
		named := slices.ContainsFunc(refs, func(r VersionRef) bool { return r.Names(v) })
		if v.Dataset == id || named {
			bases = append(bases, v)
		}
	}
	slices.SortStableFunc(bases, func(x, y PushedVersion) int { return x.Pushed.Compare(y.Pushed) })
	return bases
}

// LatestBase returns the version of a name on which a dataset is based, the latest if there are several. If no base
// has the name, it returns the latest base of any name. The bases must be sorted by time, as History.Bases sorts them.
// ok is false if there are no bases.
func LatestBase(bases []PushedVersion, name string) (v PushedVersion, ok bool) {
	for _, b := range bases {
		if !ok || b.Name == name || v.Name != name {
			v, ok = b, true
		}
	}
	return v, ok
}

func (h History) parents() map[uuid.UUID]uuid.UUID {
	parents := make(map[uuid.UUID]uuid.UUID, len(h))
	for _, v := range h {
		parents[v.ID] = v.Parent
	}
	return parents
}
