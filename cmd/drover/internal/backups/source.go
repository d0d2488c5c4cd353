package backups

import (
	"fmt"
	"regexp"
	"strings"

	"github.com/google/uuid"

	"github.com/droverhq/drover/cmd/drover/internal/cli"
	"github.com/droverhq/drover/control/api"
	"github.com/droverhq/drover/dataset"
)

// shortUUID returns the first digits of the UUID of a version, or "" if it is uuid.Nil.
func shortUUID(id uuid.UUID) string {
	if id == uuid.Nil {
		return ""
	}
	return id.String()[:cli.ShortLength]
}

// parsePlace parses REPOSITORY[/NAME].
func parsePlace(text string) (repository, name string, err error) {
	repository, name, named := strings.Cut(text, "/")
	if err := dataset.CheckRepositoryName(repository); err != nil {
		return "", "", fmt.Errorf("bad repository %q: expected REPOSITORY or REPOSITORY/NAME: %w",
			dataset.Clip(text), err)
	}
	if named {
		err = dataset.CheckName(name)
	}
	return repository, name, err
}

// source names the version that is pulled: the one whose UUID begins with prefix or, if prefix is empty, the newest.
type source struct{ repository, name, prefix string }

// versionRE matches the first digits of the UUID of a version.
var versionRE = regexp.MustCompile(`^[0-9a-f]{4}[0-9a-f-]{0,32}$`)

// parseSource parses REPOSITORY/NAME[@VERSION].
func parseSource(text string) (s source, err error) {
	text, prefix, at := strings.Cut(text, "@")
	if s.repository, s.name, err = parsePlace(text); err != nil {
		return s, err
	}
	if s.name == "" {
		return s, dataset.Errorf(dataset.ErrInvalid, "missing name: expected %s/NAME (drover repository versions "+
			"%[1]s shows the names)", s.repository)
	}
	s.prefix = strings.ToLower(prefix)
	if at && !versionRE.MatchString(s.prefix) {
		return s, dataset.Errorf(dataset.ErrInvalid, "bad version %q: expected at least 4 digits of its UUID (drover "+
			"repository versions %s shows them)", dataset.Clip(prefix), s)
	}
	return s, nil
}

func (s source) String() string { return s.repository + "/" + s.name }

// find returns the version to pull. It fails with dataset.ErrNotFound if there is none, or if its data was removed, and
// with dataset.ErrAmbiguous if there are several.
func (s source) find(h dataset.History) (v dataset.PushedVersion, err error) {
	found := h.Newest(s.name)
	what := "newest versions, because both sides have changed"
	if s.prefix != "" {
		found, what = nil, "versions whose UUIDs begin with "+s.prefix
		for _, v := range h.OfName(s.name) {
			if strings.HasPrefix(v.ID.String(), s.prefix) {
				found = append(found, v)
			}
		}
	}
	switch {
	case len(found) == 0 && s.prefix != "":
		return v, dataset.Errorf(dataset.ErrNotFound, "no such version: %s@%s (drover repository versions %[1]s "+
			"shows them)", s, s.prefix)
	case len(found) == 0:
		return v, dataset.Errorf(dataset.ErrNotFound, "no version of %s can be pulled (drover repository versions %s "+
			"shows what the repository has)", s, s.repository)
	case len(found) > 1:
		var ids []string
		for _, v := range found {
			ids = append(ids, shortUUID(v.ID))
		}
		return v, dataset.Errorf(dataset.ErrAmbiguous, "%s has %d %s (name one, as in drover pull %s@VERSION NEW: %s)",
			s, len(found), what, s, dataset.FormatChoices(ids))
	case found[0].Removed:
		return v, dataset.Errorf(dataset.ErrNotFound, "the data of version %s of %s was removed (drover repository "+
			"versions %[2]s shows the others)", shortUUID(found[0].ID), s)
	}
	return found[0], nil
}

// existsError returns the error for a pull of a version into a volume that exists and does not continue the version;
// nil if the volume continues it. The error has both histories.
func (s source) existsError(h dataset.History, existing api.Volume, v dataset.PushedVersion) error {
	bases := h.Bases(existing.ID, existing.BasedOn)
	var ids []uuid.UUID
	for _, b := range bases {
		ids = append(ids, b.ID)
	}
	known := h.Ancestors(ids...)
	if known[v.ID] {
		return nil
	}
	lacks := 0
	for _, other := range h.OfName(s.name) {
		if !known[other.ID] {
			lacks++
		}
	}
	ours := "no version of it"
	if v, ok := dataset.LatestBase(bases, s.name); ok {
		ours = "version " + v.Describe()
	}
	from := s.String()
	if s.prefix != "" {
		from += "@" + s.prefix
	}
	return dataset.Errorf(dataset.ErrExists, "volume %s exists, and a pull never changes an existing volume: "+
		"it continues %s, and lacks version %s. In all, it lacks %s of %s (pull that version as another volume: "+
		"drover pull %s --as NEW)", existing.Volume, ours, v.Describe(), counted(lacks), s, from)
}

func counted(n int) string {
	if n == 1 {
		return "1 version"
	}
	return fmt.Sprintf("%d versions", n)
}
