// Package profiles reads profiles.yaml: the sets of choices that an operator
// offers under names. It is pure: bytes in, resolved profiles or an error with
// its place out.
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

// Default is the name of the profile of volumes that ask for none.
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

// Get returns a profile, the default one for an empty name. ErrInvalid for an
// unknown name, with those there are.
func (s *Set) Get(name string) (dataset.Profile, error) {
	if name == "" {
		name = s.def
	}
	if p, ok := s.profiles[name]; ok {
		return p.Clone(), nil
	}
	have := s.Names()
	return dataset.Profile{}, dataset.Errorf(dataset.ErrInvalid, "unknown profile %q (have: %s)%s",
		dataset.Clip(name), dataset.Have(have), dataset.Guess(name, have))
}

// revision is what tells two versions of a profile apart: the first 12 hex digits
// of a hash over all its choices.
func revision(p dataset.Profile) string {
	p.Revision, p.Description = "", ""
	b, err := json.Marshal(p)
	if err != nil {
		panic(err) // a struct of plain values
	}
	sum := sha256.Sum256(b)
	return hex.EncodeToString(sum[:6])
}
