package profiles

import (
	"time"

	"github.com/droverhq/drover/dataset"
	"github.com/droverhq/drover/internal/strictyaml"
)

// maxReplicas is the maximum number of replicas of one volume.
const maxReplicas = 8

// minEvery is the minimum interval between two refreshes. Even a refresh with hardly any changes may take that long.
const minEvery = dataset.Duration(time.Second)

// replicas reads {count: 1, every: 30s}.
func replicas(n strictyaml.Node, r *dataset.Replicas) error {
	keys, err := n.Keys([]string{"count", "every"}, nil)
	if err != nil {
		return err
	}
	var bad strictyaml.Mistakes
	for _, need := range []string{"count", "every"} {
		if _, ok := keys[need]; !ok {
			bad.Add(n.Errorf("expected the number and the interval, such as {count: 1, every: 30s}"))
			return bad.Err()
		}
	}
	count, err := keys["count"].Int(maxReplicas)
	if bad.Add(err) && count == 0 {
		bad.Add(keys["count"].Errorf("no replicas: omit replicas"))
	}
	r.Count = int(count)
	if bad.Add(duration(keys["every"], &r.Every)) && r.Every < minEvery {
		bad.Add(keys["every"].Errorf("too often: expected %s or more", minEvery))
	}
	return bad.Err()
}

func duration(n strictyaml.Node, into *dataset.Duration) error {
	s, err := n.String()
	if err != nil {
		return err
	}
	return n.Wrap(into.UnmarshalText([]byte(s)))
}
