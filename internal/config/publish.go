package config

import (
	"path/filepath"
	"slices"
	"strings"

	"github.com/droverhq/drover/dataset"
	"github.com/droverhq/drover/internal/strictyaml"
)

// The places where the facts of nodes can be published. With PublishSwarm, an agent publishes them as labels of the
// nodes of its Swarm. With PublishConsul, a control replica publishes them as tags and metadata of services in Consul.
const (
	PublishSwarm  = "swarm"
	PublishConsul = "consul"
)

// CheckPublish returns nil if facts can be published at each of these places. Otherwise it fails with ErrInvalid, and
// lists the valid places.
func CheckPublish(places []string) error {
	valid := []string{PublishSwarm, PublishConsul}
	for i, p := range places {
		switch {
		case !slices.Contains(valid, p):
			return dataset.Errorf(dataset.ErrInvalid, "facts cannot be published to %q (available: %s)%s",
				dataset.Clip(p), dataset.FormatChoices(valid), dataset.Suggestion(p, valid))
		case slices.Contains(places[:i], p):
			return dataset.Errorf(dataset.ErrInvalid, "%s is listed twice", p)
		}
	}
	return nil
}

func publish(n strictyaml.Node) (places []string, err error) {
	items, err := n.Items()
	if err != nil {
		return nil, err
	}
	var bad strictyaml.Mistakes
	for _, item := range items {
		p, err := item.String()
		if bad.Add(err) && bad.Add(item.Wrap(CheckPublish([]string{p}))) {
			places = append(places, p)
		}
	}
	if err := bad.Err(); err != nil {
		return nil, err
	}
	return places, n.Wrap(CheckPublish(places))
}

// hideVolumeMetrics reads the section metrics. Its only key says whether there are metrics for each volume.
func hideVolumeMetrics(n strictyaml.Node) (bool, error) {
	keys, err := n.Keys([]string{"volumes"}, nil)
	if err != nil || n.Absent() {
		return false, err
	}
	volumes, ok := keys["volumes"]
	if !ok {
		return false, n.Errorf("it needs the key volumes, with the value true or false")
	}
	shown, err := volumes.Bool()
	return !shown && err == nil, err
}

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
