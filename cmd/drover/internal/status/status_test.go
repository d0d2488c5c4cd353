package status

import (
	"testing"
	"time"

	"github.com/droverhq/drover/control/api"
)

// TestManyVolumesUseTheLastExamination: doctor reads each record of each pool, so status does not wait for it on a host
// with many volumes, unless nothing recent is known about that host.
func TestManyVolumesUseTheLastExamination(t *testing.T) {
	now := time.Date(2026, 11, 25, 9, 0, 0, 0, time.UTC)
	for name, c := range map[string]struct {
		volumes int
		edit    func(*Cluster)
		want    bool
	}{
		"few volumes":            {volumes: manyVolumes},
		"many volumes":           {volumes: manyVolumes + 1, want: true},
		"those of other nodes":   {volumes: manyVolumes + 1, edit: func(c *Cluster) { c.Local = "beta" }},
		"volumes unknown":        {volumes: manyVolumes + 1, edit: func(c *Cluster) { c.VolumesUnknown = true }},
		"server without health":  {volumes: manyVolumes + 1, edit: func(c *Cluster) { c.Health = nil }},
		"node is dead":           {volumes: manyVolumes + 1, edit: func(c *Cluster) { c.Health.Nodes[0].Live = false }},
		"nothing examined":       {volumes: manyVolumes + 1, edit: func(c *Cluster) { c.Health.Nodes[0].Found = nil }},
		"old examination":        {volumes: manyVolumes + 1, edit: func(c *Cluster) { c.Health.Nodes[0].Found.Examined = now.Add(-2 * time.Minute) }},
		"control without a node": {volumes: manyVolumes + 1, edit: func(c *Cluster) { c.Local = "" }},
	} {
		known := Cluster{Local: "alpha", Volumes: make([]api.Volume, c.volumes), Health: &api.ClusterHealth{
			Nodes: []api.NodeHealth{{Name: "alpha", Live: true, Found: &api.NodeFindings{Examined: now.Add(-10 * time.Second)}}},
		}}
		for i := range known.Volumes {
			known.Volumes[i].Node = "alpha"
		}
		if c.edit != nil {
			c.edit(&known)
		}
		if got := knowsHost(known, now); got != c.want {
			t.Errorf("%s: knowsHost = %t, want %t", name, got, c.want)
		}
	}
}
