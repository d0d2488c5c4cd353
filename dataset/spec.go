package dataset

import (
	"errors"
	"regexp"
	"sort"
	"strings"
)

var (
	nameRE    = regexp.MustCompile(`^[a-zA-Z0-9][a-zA-Z0-9_.-]{1,127}$`)
	profileRE = regexp.MustCompile(`^[a-z0-9][a-z0-9-]{0,62}$`)
	prefixRE  = regexp.MustCompile(`^[0-9a-f-]{4,36}$`)
	anonRE    = regexp.MustCompile(`^[0-9a-f]{64}$`)
	labelRE   = regexp.MustCompile(`^[a-zA-Z0-9][a-zA-Z0-9_./-]{0,62}$`)
)

// Spec is how a user names a volume: a bare name, name@profile, or name@snapshot-prefix. At most one of Profile
// and From is set.
type Spec struct {
	Name    string // identifies the volume; db and db@gold are the same volume
	Profile string // the profile after "@"; "" if there is none
	From    string // the lower-case UUID prefix after "@snapshot-"; "" if there is none
}

// String returns the canonical form of the spec. ParseSpec parses it back to the same value.
func (s Spec) String() string {
	switch {
	case s.From != "":
		return s.Name + "@snapshot-" + s.From
	case s.Profile != "":
		return s.Name + "@" + s.Profile
	}
	return s.Name
}

// Anonymous reports whether the name looks like one that Docker generates for a volume without a name: 64 hexadecimal
// digits.
func (s Spec) Anonymous() bool { return anonRE.MatchString(s.Name) }

// ParseSpec parses a spec. It fails with ErrInvalid; the error names the wrong part and the valid values.
func ParseSpec(s string) (Spec, error) {
	name, rest, at := strings.Cut(s, "@")
	if err := CheckName(name); err != nil {
		return Spec{}, err
	}
	if !at {
		return Spec{Name: name}, nil
	}
	// ToLower and not EqualFold, which also takes the long s (U+017F) for an s.
	if head, prefix, ok := strings.Cut(rest, "-"); ok && strings.ToLower(head) == "snapshot" {
		prefix = strings.ToLower(prefix)
		if err := CheckPrefix(prefix); err != nil {
			return Spec{}, err
		}
		return Spec{Name: name, From: prefix}, nil
	}
	if strings.ToLower(rest) == "snapshot" {
		return Spec{}, Errorf(ErrInvalid, "spec %q: no UUID after @snapshot (use %s@snapshot-f23ca986, with 4 to "+
			"36 characters of a snapshot's or dataset's UUID)", s, name)
	}
	if err := CheckProfileName(rest); err != nil {
		return Spec{}, err
	}
	return Spec{Name: name, Profile: rest}, nil
}

// Reference is a parsed spec together with its spelling. An engine compares names of volumes as strings, so Drover must
// return the spelling that the engine used.
//
// Each spec is parsed once, where it enters Drover: package plugin parses it for an engine, and api.Request.Parsed
// parses it for a request to control. All other code passes the Reference on.
type Reference struct {
	Spec            // empty if Err is set
	Spelling string // the spec in the letters of the engine or user
	Err      error  // why the spelling is not a spec: an error of ParseSpec
}

// ParseReference parses a spelling. It keeps the error of ParseSpec, because only some requests fail with it: Create
// reports it, Get reports that there is no such volume, and Unmount succeeds.
func ParseReference(spelling string) Reference {
	sp, err := ParseSpec(spelling)
	return Reference{Spec: sp, Spelling: spelling, Err: err}
}

// SplitAtSign returns the text before and after the "@". It also works for a spelling that is not a spec. Without an
// "@", after is "".
func (r Reference) SplitAtSign() (before, after string) {
	before, after, _ = strings.Cut(r.Spelling, "@")
	return before, after
}

// String returns the spelling.
func (r Reference) String() string { return r.Spelling }

// CheckName fails with ErrInvalid unless name can be a volume's name: 2 to 128 of the characters a-z A-Z 0-9 _ .
// - with a letter or digit first.
func CheckName(name string) error {
	if nameRE.MatchString(name) {
		return nil
	}
	return Errorf(ErrInvalid, "bad volume name %q: expected 2 to 128 letters, digits, '_', '.' or '-', with a "+
		"letter or digit first", Clip(name))
}

// ErrProfileName is wrapped by the errors of CheckProfileName, so that callers that know the existing profiles
// can list them.
var ErrProfileName = errors.New("bad profile name")

// CheckProfileName fails with ErrInvalid unless name can be a profile's name. "snapshot" and names that begin
// with "snapshot-" are reserved for clones.
func CheckProfileName(name string) error {
	if profileRE.MatchString(name) && name != "snapshot" && !strings.HasPrefix(name, "snapshot-") {
		return nil
	}
	return Errorf(ErrInvalid, "%w %q: expected 1 to 63 lower-case letters, digits or '-', with a letter or digit "+
		"first, and not snapshot", ErrProfileName, Clip(name))
}

// CheckPoolName fails with ErrInvalid unless name can be a pool's name.
func CheckPoolName(name string) error {
	if profileRE.MatchString(name) {
		return nil
	}
	return Errorf(ErrInvalid, "bad pool name %q: expected 1 to 63 lower-case letters, digits or '-', with a "+
		"letter or digit first", Clip(name))
}

// CheckPrefix fails with ErrInvalid unless prefix can be the beginning of a UUID: 4 to 36 hexadecimal digits or
// '-'.
func CheckPrefix(prefix string) error {
	if prefixRE.MatchString(prefix) {
		return nil
	}
	return Errorf(ErrInvalid, "bad UUID prefix %q: expected 4 to 36 characters of a snapshot's or dataset's UUID "+
		"(hex digits and '-'; drover snapshot ls and volume ls show them)", Clip(prefix))
}

// CheckLabel fails with ErrInvalid unless key can be a label's key.
func CheckLabel(key string) error {
	if labelRE.MatchString(key) {
		return nil
	}
	return Errorf(ErrInvalid, "bad label key %q: expected 1 to 63 letters, digits, '_', '.', '/' or '-', with a "+
		"letter or digit first", Clip(key))
}

// Nearest returns the choice that is most similar to word, ignoring case. If several choices are equally similar, it
// returns the first. A choice is similar if the number of typing errors is at most a third of the length of word,
// rounded to the nearest integer, or 1 for a short word. If no choice is similar, Nearest returns "".
func Nearest(word string, choices []string) string {
	if len(word) > maxWord {
		return ""
	}
	best, maxDistance := "", max(1, (len(word)+1)/3)
	for _, h := range choices {
		if len(h) > maxWord {
			continue
		}
		if d := distance(strings.ToLower(word), strings.ToLower(h)); d <= maxDistance {
			best, maxDistance = h, d-1
		}
	}
	return best
}

// Suggestion returns a hint to append to the error about a word that is none of the choices: "; did you mean gold?".
// If no choice is similar, it returns "".
func Suggestion(word string, choices []string) string {
	if n := Nearest(word, choices); n != "" {
		return "; did you mean " + n + "?"
	}
	return ""
}

// maxWord is the longest word for which similar choices are searched, so that a malicious word cannot cause much work.
// No name is longer.
const maxWord = 128

// FormatChoices returns the sorted words, joined for the "(available: …)" part of an error; "none" if there are none.
func FormatChoices(words []string) string {
	if len(words) == 0 {
		return "none"
	}
	s := append([]string(nil), words...)
	sort.Strings(s)
	return strings.Join(s, ", ")
}

// distance is the Damerau-Levenshtein distance with adjacent transpositions, because glod for gold is one typing
// error and not two.
func distance(a, b string) int {
	rows := make([][]int, len(a)+1)
	for i := range rows {
		rows[i] = make([]int, len(b)+1)
		rows[i][0] = i
	}
	for j := range rows[0] {
		rows[0][j] = j
	}
	for i := 1; i <= len(a); i++ {
		for j := 1; j <= len(b); j++ {
			cost := 1
			if a[i-1] == b[j-1] {
				cost = 0
			}
			d := min(rows[i-1][j]+1, rows[i][j-1]+1, rows[i-1][j-1]+cost)
			if i > 1 && j > 1 && a[i-1] == b[j-2] && a[i-2] == b[j-1] {
				d = min(d, rows[i-2][j-2]+1)
			}
			rows[i][j] = d
		}
	}
	return rows[len(a)][len(b)]
}
