package dataset

import (
	"regexp"
	"strings"
	"time"
)

// Grant lets the holder of a secret use a repository through an agent of this cluster: another cluster pulls volumes
// from it and, if the grant says so, pushes volumes to it.
type Grant struct {
	Name       string    `json:"name"`             // unique name of the grant, which is in the URL of the remote
	Repository string    `json:"repository"`       // name of the repository, which is a directory
	Push       bool      `json:"push,omitempty"`   // the holder may push; every grant lets its holder pull
	Quota      Size      `json:"quota,omitempty"`  // a push may not make the directory larger; absent: no limit
	SecretHash string    `json:"secret_hash"`      // SHA-256 of the secret in hexadecimal digits
	Expires    time.Time `json:"expires,omitzero"` // the grant is refused from then on; absent: never
	Created    time.Time `json:"created"`          // when it was created
	By         string    `json:"by"`               // who created it
	// what the host that answers the request knows of the use of the grant; absent: it does not serve the repository to
	// other clusters. It is not recorded.
	Use *GrantUse `json:"use,omitempty"`
}

// GrantUse is what a host that serves a repository to other clusters knows of the use of a grant.
type GrantUse struct {
	Since time.Time `json:"since"`         // when the host started to note uses: the last start of Drover on it
	Last  time.Time `json:"last,omitzero"` // when the grant was used last; absent: not since then
	// bytes of all files of the repository, as they count for the quota; absent: they are not counted yet
	Used Size `json:"used,omitempty"`
}

// Expired reports whether a grant has expired.
func (g Grant) Expired(now time.Time) bool { return !g.Expires.IsZero() && !now.Before(g.Expires) }

// Allows reports whether a grant is for a repository. A grant that is older than the record of the repository is not:
// it was for an earlier repository with that name.
func (g Grant) Allows(r Repository) bool {
	return r.Name == g.Repository && r.IsDirectory() && !g.Created.Before(r.Created)
}

// CheckGrantName fails with ErrInvalid unless name can be a grant's name.
func CheckGrantName(name string) error {
	if profileRE.MatchString(name) {
		return nil
	}
	return Errorf(ErrInvalid, "bad name of a grant %q: expected 1 to 63 lower-case letters, digits or '-', with a "+
		"letter or digit first", Clip(name))
}

// Check fails with ErrInvalid if a field of the grant is wrong.
func (g Grant) Check() error {
	if err := CheckGrantName(g.Name); err != nil {
		return err
	}
	if err := CheckRepositoryName(g.Repository); err != nil {
		return err
	}
	switch {
	case !regexp.MustCompile("^[0-9a-f]{64}$").MatchString(g.SecretHash):
		return Errorf(ErrInvalid, "grant %s: bad SHA-256 of its secret: expected 64 hexadecimal digits", g.Name)
	case g.Quota < 0:
		return Errorf(ErrInvalid, "grant %s: bad quota: expected a size, or 0 for no limit", g.Name)
	case g.Quota > 0 && !g.Push:
		return Errorf(ErrInvalid, "grant %s: a quota applies only to a grant with the right to push", g.Name)
	}
	return nil
}

// IsDirectory reports whether a repository is a directory of the hosts that use it.
func (r Repository) IsDirectory() bool { return strings.HasPrefix(r.URL, "/") }
