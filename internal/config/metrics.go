package config

import "github.com/droverhq/drover/internal/strictyaml"

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
