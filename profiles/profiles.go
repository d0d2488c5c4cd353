// Package profiles reads profiles.yaml, in which an operator defines named sets of choices for volumes. Parse is a pure
// function: it converts bytes to resolved profiles, or to an error with the position of each mistake. The package owns
// no state, and a Set never changes.
//
// In cmd/drover, package settings reads the file and calls Parse, package servers keeps the Set that was read last and
// passes it to control, and package profiles checks a file for an operator. To add a key, add a field to
// dataset.Profile, its reader to this package, the key to both lists in parseProfile, and its description to
// profiles.schema.json. If the field contains a slice or a pointer, also change dataset.Profile.Clone.
package profiles

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"slices"

	"github.com/droverhq/drover/dataset"
)

// Set is the profiles of one file. It never changes; safe for concurrent use.
type Set struct {
	def      string
	profiles map[string]dataset.Profile
}

// Default returns the name of the profile for volumes that request none.
func (s *Set) Default() string { return s.def }

// Names returns the names in alphabetical order.
func (s *Set) Names() []string {
	names := make([]string, 0, len(s.profiles))
	for n := range s.profiles {
		names = append(names, n)
	}
	slices.Sort(names)
	return names
}

// All returns all profiles in the order of their names.
func (s *Set) All() []dataset.Profile {
	out := make([]dataset.Profile, 0, len(s.profiles))
	for _, n := range s.Names() {
		out = append(out, s.profiles[n].Clone())
	}
	return out
}

// Get returns a profile. If name is empty, it returns the default one. It fails with ErrInvalid, and the existing
// names, if the name is unknown.
func (s *Set) Get(name string) (dataset.Profile, error) {
	if name == "" {
		name = s.def
	}
	if p, ok := s.profiles[name]; ok {
		return p.Clone(), nil
	}
	names := s.Names()
	return dataset.Profile{}, dataset.Errorf(dataset.ErrInvalid, "unknown profile %q (available: %s)%s",
		dataset.Clip(name), dataset.FormatChoices(names), dataset.Suggestion(name, names))
}

// revision distinguishes two versions of a profile: the first 12 hex digits of a hash of all its choices.
func revision(p dataset.Profile) string {
	p.Revision, p.Description = "", ""
	b, err := json.Marshal(p)
	if err != nil {
		panic(err) // a struct of plain values
	}
	sum := sha256.Sum256(b)
	return hex.EncodeToString(sum[:6])
}
