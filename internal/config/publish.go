package config

import (
	"slices"

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
