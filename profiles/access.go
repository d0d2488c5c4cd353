package profiles

import (
	"github.com/droverhq/drover/dataset"
	"github.com/droverhq/drover/internal/strictyaml"
)

// access reads "one" or "many".
func access(n strictyaml.Node, a *dataset.Access) error {
	s, err := n.String()
	switch {
	case err != nil:
		return err
	case s == string(dataset.AccessMany):
		*a = dataset.AccessMany
	case s != "one":
		return n.Errorf("unknown choice %q (available: many, one)", dataset.Clip(s))
	}
	return nil
}

// checkAccess refuses the settings that a profile with access many cannot have, because Drover can enforce them only on
// one host.
func checkAccess(keys map[string]strictyaml.Node, p *dataset.Profile) error {
	if p.Access != dataset.AccessMany {
		return nil
	}
	_, follows := keys["follow"]
	var bad strictyaml.Mistakes
	if p.Backend != "" && p.Backend != shareBackend {
		bad.Add(keys["access"].Errorf("a pool of backend %s belongs to one host: expected backend: %s, whose "+
			"pools are on a share", p.Backend, shareBackend))
	}
	for _, c := range []struct {
		key    string
		isSet  bool
		reason string
	}{
		{"failover", p.Failover.Auto, "with access: many every host of the share can mount it, even if its home " +
			"is lost: omit it, because auto would fence hosts that use it"},
		{"replicas", p.Replicas.Count > 0, "a volume on a share for many hosts has no copies elsewhere: omit it"},
		{"follow", follows, "with access: many it can be mounted on every host, and its home stays: omit it"},
		{"qos", p.QoS.Limited(), "a limit on one host does not apply to the others: omit it"},
	} {
		if c.isSet {
			bad.Add(keys[c.key].KeyErrorf("%s", c.reason))
		}
	}
	return bad.Err()
}
