package product

import (
	"testing"

	"github.com/droverhq/drover/test/engine"
	"github.com/droverhq/drover/test/host"
	"github.com/droverhq/drover/test/volumes"
)

// TestVolumes runs on one host what test/cluster runs in a cluster.
func TestVolumes(t *testing.T) {
	w := begin(t, host.Options{Profiles: volumes.Profiles}, engine.Options{})
	volumes.Run(t, w.suite())
}

// suite adapts the world to the suite of volumes.
func (w *world) suite() volumes.World {
	return volumes.World{Engine: w.e, Host: w.h, Name: "host-a", Admin: w.h, Servers: []*host.Host{w.h}}
}
