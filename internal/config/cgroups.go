package config

import (
	"path/filepath"
	"strings"

	"github.com/droverhq/drover/internal/strictyaml"
)

// maxParents is the maximum number of control groups, more than any engine needs.
const maxParents = 16

// parents reads names of control groups as in an engine's cgroup-parent: paths below the root group, with or without a
// leading slash.
func parents(n strictyaml.Node) ([]string, error) {
	items, err := n.Items()
	if err != nil || n.Absent() {
		return nil, err
	}
	if len(items) == 0 || len(items) > maxParents {
		return nil, n.Errorf("%d control groups: expected 1 to %d, or omit it", len(items), maxParents)
	}
	var bad strictyaml.Mistakes
	out := make([]string, len(items))
	for i, item := range items {
		s, err := item.String()
		if !bad.Add(err) {
			continue
		}
		out[i] = "/" + strings.TrimPrefix(s, "/")
		if out[i] == "/" || filepath.Clean(out[i]) != out[i] {
			bad.Add(item.Errorf("bad control group %.200q: expected one below the root group, such as "+
				"system.slice or docker", s))
		}
	}
	return out, bad.Err()
}
