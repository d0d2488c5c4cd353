package profiles

import (
	"github.com/droverhq/drover/dataset"
	"github.com/droverhq/drover/internal/strictyaml"
)

// follow reads "always", "never", or {within: 60s}.
func follow(n strictyaml.Node, f *dataset.Follow) error {
	if n.IsMap() {
		return followWithin(n, f)
	}
	s, err := n.String()
	if err != nil {
		return err
	}
	switch mode := dataset.FollowMode(s); mode {
	case dataset.FollowAlways, dataset.FollowNever:
		*f = dataset.Follow{Mode: mode}
		return nil
	}
	return n.Errorf("unknown choice %q (available: {within: 60s}, always, never)", dataset.Clip(s))
}

func followWithin(n strictyaml.Node, f *dataset.Follow) error {
	keys, err := n.Keys([]string{"within"}, nil)
	if err != nil {
		return err
	}
	v, ok := keys["within"]
	if !ok {
		return n.Errorf("expected a time, such as {within: 60s}, or always, or never")
	}
	f.Mode = dataset.FollowWithin
	if err := duration(v, &f.Within); err != nil {
		return err
	}
	if f.Within == 0 {
		return v.Errorf("the time is 0: use never to have it moved only by hand")
	}
	return nil
}
