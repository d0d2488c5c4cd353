package settings

import (
	"strings"

	"github.com/droverhq/drover/backends"
	"github.com/droverhq/drover/control/placement"
	"github.com/droverhq/drover/dataset"
	"github.com/droverhq/drover/profiles"
)

// ProfileCheck finds the profiles that no host whatsoever could keep, with backends of kinds.
func ProfileCheck(kinds *backends.Registry) profiles.Check {
	return func(p dataset.Profile) (string, error) {
		if p.Backend != "" {
			kind, err := kinds.Kind(p.Backend)
			if err != nil {
				return "backend", err
			}
			if why := unkept(kind, p); why != "" {
				return "backend", dataset.Errorf(dataset.ErrInvalid,
					"no pool of backend %s can satisfy this profile: %s%s", p.Backend, why, others(kinds, p))
			}
			return "", nil
		}
		by := map[string][]string{} // names by why
		var whys []string
		for _, kind := range kinds.Kinds() {
			why := unkept(kind, p)
			if why == "" {
				return "", nil
			}
			if by[why] == nil {
				whys = append(whys, why)
			}
			by[why] = append(by[why], kind.Name())
		}
		for i, why := range whys {
			whys[i] = "backend " + dataset.Have(by[why]) + ": " + why
		}
		return "", dataset.Errorf(dataset.ErrInvalid, "no backend can satisfy all of this: "+
			"%s", strings.Join(whys, "; "))
	}
}

// others says which backends could keep a profile that names one which cannot, if any.
func others(kinds *backends.Registry, p dataset.Profile) string {
	var names []string
	p.Backend = ""
	for _, kind := range kinds.Kinds() {
		if unkept(kind, p) == "" {
			names = append(names, kind.Name())
		}
	}
	if len(names) == 0 {
		return ""
	}
	return " (backend " + dataset.Have(names) + " could)"
}

// unkept says why no pool of a backend could keep a profile; "": one could.
func unkept(kind backends.Kind, p dataset.Profile) string {
	b, ok := kind.(backends.BoundedKind)
	if !ok {
		return ""
	}
	if why := placement.Misfit(kind.Name(), b.Best(), p); why != "" {
		return why
	}
	if p.Size > 0 {
		if err := b.Takes(p.Filesystem.Type, p.Size); err != nil {
			return err.Error()
		}
	}
	return ""
}
