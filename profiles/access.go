package profiles

import (
	"github.com/droverhq/drover/dataset"
	"github.com/droverhq/drover/internal/strictyaml"
)

// access reads the value one or many.
func access(n strictyaml.Node, a *dataset.Access) error {
	s, err := n.String()
	switch {
	case err != nil:
		return err
	case s == string(dataset.AccessMany):
		*a = dataset.AccessMany
	case s != "one":
		return n.Errorf("unknown choice %q (have: many, one)", dataset.Clip(s))
	}
	return nil
}

// manyHosts refuses the settings that a profile with access many cannot have: with several hosts, Drover cannot keep
// promises that it enforces on one host only.
func manyHosts(keys map[string]strictyaml.Node, p *dataset.Profile) error {
	if p.Access != dataset.AccessMany {
		return nil
	}
	_, follows := keys["follow"]
	var bad strictyaml.Mistakes
	if p.Backend != "" && p.Backend != onShares {
		bad.Add(keys["access"].Errorf("a pool of backend %s is one host's alone: want backend: %s, whose "+
			"pools lie on a share", p.Backend, onShares))
	}
	for _, c := range []struct {
		key  string
		said bool
		why  string
	}{
		{"failover", p.Failover.Auto, "with access: many every host of the share has it, whether or not its " +
			"home is lost: leave it out, as auto would shut hosts out that use it"},
		{"replicas", p.Replicas.Count > 0, "what lies on a share for many hosts has no copies elsewhere: leave it out"},
		{"follow", follows, "with access: many it is mounted wherever it is wanted, and its home stays: leave it out"},
		{"qos", p.QoS.Limited(), "a limit on one host holds none of the others: leave it out"},
		{"quiesce", p.Quiesce != dataset.QuiesceNone, "a freeze on one host holds none of the others: leave it out"},
	} {
		if c.said {
			bad.Add(keys[c.key].KeyErrorf("%s", c.why))
		}
	}
	return bad.Err()
}
