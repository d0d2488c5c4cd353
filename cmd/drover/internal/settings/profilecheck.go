package settings

import (
	"strings"

	"github.com/droverhq/drover/backends"
	"github.com/droverhq/drover/control/placement"
	"github.com/droverhq/drover/dataset"
	"github.com/droverhq/drover/profiles"
)

// ProfileCheck returns a check that finds profiles that no pool of any backend in kinds can satisfy, on any host.
func ProfileCheck(kinds *backends.Registry) profiles.Check {
	return func(p dataset.Profile) (string, error) {
		if p.Backend != "" {
			kind, err := kinds.Kind(p.Backend)
			if err != nil {
				return "backend", err
			}
			if reason := whyUnsatisfiable(kind, p); reason != "" {
				return "backend", dataset.Errorf(dataset.ErrInvalid,
					"no pool of backend %s can satisfy this profile: %s%s", p.Backend, reason,
					suggestBackends(kinds, p))
			}
			return "", nil
		}
		backendsByReason := map[string][]string{} // names of backends by the reason
		var whys []string
		for _, kind := range kinds.Kinds() {
			reason := whyUnsatisfiable(kind, p)
			if reason == "" {
				return "", nil
			}
			if backendsByReason[reason] == nil {
				whys = append(whys, reason)
			}
			backendsByReason[reason] = append(backendsByReason[reason], kind.Name())
		}
		for i, reason := range whys {
			whys[i] = "backend " + dataset.FormatChoices(backendsByReason[reason]) + ": " + reason
		}
		return "", dataset.Errorf(dataset.ErrInvalid, "no backend can satisfy all of this: "+
			"%s", strings.Join(whys, "; "))
	}
}

// suggestBackends returns a remark that names the other backends that could satisfy a profile, or "" if there are none.
func suggestBackends(kinds *backends.Registry, p dataset.Profile) string {
	var names []string
	p.Backend = ""
	for _, kind := range kinds.Kinds() {
		if whyUnsatisfiable(kind, p) == "" {
			names = append(names, kind.Name())
		}
	}
	if len(names) == 0 {
		return ""
	}
	return " (backend " + dataset.FormatChoices(names) + " could)"
}

// whyUnsatisfiable returns why no pool of a backend can satisfy a profile, or "" if one can.
func whyUnsatisfiable(kind backends.Kind, p dataset.Profile) string {
	b, ok := kind.(backends.BoundedKind)
	if !ok {
		return ""
	}
	if reason := placement.WhyKindUnsuitable(kind.Name(), b.MaxCapabilities(), p); reason != "" {
		return reason
	}
	if p.Size > 0 {
		if err := b.CheckSize(p.Filesystem.Type, p.Size); err != nil {
			return err.Error()
		}
	}
	return ""
}
