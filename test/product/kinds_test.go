package product

import (
	"testing"

	"github.com/droverhq/drover/test/engine"
	"github.com/droverhq/drover/test/host"
	"github.com/droverhq/drover/test/volumes"
)

// TestOtherPools tells what matters most on the other kinds of pools: the image of
// a dataset in a subvolume, the preallocated image that a host without reflinks
// gets, and plain folders.
func TestOtherPools(t *testing.T) {
	// What the scenarios ask for, without the size that folders cannot enforce.
	const plain = `default: bronze
profiles: {bronze: {}, silver: {}, gold: {}}
`
	for _, o := range []host.Options{
		{Pool: "btrfs", Profiles: threeProfiles},
		{Pool: "ext4", Profiles: threeProfiles},
		{Pool: "dir", Profiles: plain},
	} {
		t.Run(o.Pool, func(t *testing.T) {
			w := begin(t, o, engine.Options{})
			t.Run("B1", func(t *testing.T) { testB1(t, w) })
			t.Run("B3", func(t *testing.T) { testB3(t, w) })
			t.Run("B6", func(t *testing.T) { testB6(t, w) })
			t.Run("B8 I11", func(t *testing.T) { volumes.InUse(t, w.suite()) })
			t.Run("B12", func(t *testing.T) { testB12(t, w) })
			t.Run("B17", func(t *testing.T) { testB17(t, w) })
			t.Run("B17 spellings", func(t *testing.T) { volumes.Spellings(t, w.suite()) })
		})
	}
}
