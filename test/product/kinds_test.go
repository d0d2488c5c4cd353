package product

import (
	"testing"

	"github.com/droverhq/drover/internal/long"
	"github.com/droverhq/drover/test/engine"
	"github.com/droverhq/drover/test/host"
	"github.com/droverhq/drover/test/volumes"
)

// TestOtherPools runs the most important scenarios on the kinds of pools that TestA1A2A7 does not have: the preallocated
// image that is used on a host without reflinks, and subvolumes. In the short form, each scenario runs on one or both.
func TestOtherPools(t *testing.T) {
	// The profiles of the scenarios without a filesystem inside of volumes.
	const sized = `default: bronze
profiles: {bronze: {size: 256MiB}, silver: {size: 256MiB}, gold: {size: 512MiB}}
`
	pools := []host.Options{
		{Pool: "ext4", Profiles: threeProfiles},
		{Pool: "subvolumes", Profiles: sized},
	}
	scenarios := []struct {
		name string
		test func(*testing.T, *world)
	}{
		{"B1", testB1}, {"B3", testB3}, {"B6", testB6},
		{"B8 I11", func(t *testing.T, w *world) { volumes.InUse(t, w.suite()) }},
		{"B12", testB12}, {"B17", testB17},
		{"B17 spellings", func(t *testing.T, w *world) { volumes.Spellings(t, w.suite()) }},
	}
	for row, o := range pools {
		t.Run(o.Pool, func(t *testing.T) {
			w := begin(t, o, engine.Options{})
			for column, s := range scenarios {
				if long.Turn(row, len(pools), column, len(scenarios), 2) {
					t.Run(s.name, func(t *testing.T) { s.test(t, w) })
				}
			}
		})
	}
}
