package dataset

import (
	"fmt"
	"strings"
)

const (
	maxNamed      = 3   // number of things in a pool that an error names
	maxErrorBytes = 400 // longest text of such an error, unless a single thing is longer
)

// PoolContent is a thing that prevents the removal of a pool, with the way to remove the thing.
type PoolContent struct{ What, Remedy string }

// PoolNotEmpty returns the error for a pool that cannot be removed because of its content or of records. It is
// ErrConflict, and names up to three of these things, each with the way to remove it. If there are none, PoolNotEmpty
// returns nil.
func PoolNotEmpty(pool string, contents []PoolContent) error {
	if len(contents) == 0 {
		return nil
	}
	text := ""
	for n := min(len(contents), maxNamed); n > 0; n-- {
		var parts []string
		for _, h := range contents[:n] {
			parts = append(parts, h.What+": "+h.Remedy)
		}
		if more := len(contents) - n; more > 0 {
			parts = append(parts, fmt.Sprintf("and %d more", more))
		}
		if text = fmt.Sprintf("pool %s holds %s", pool, strings.Join(parts, "; ")); len(text) <= maxErrorBytes {
			break
		}
	}
	return Errorf(ErrConflict, "%s", text)
}

// PoolContent describes the dataset as a thing that prevents the removal of its home's pool.
func (d Dataset) PoolContent() PoolContent {
	short := d.ID.String()[:8]
	switch d.State {
	case StateTrashed:
		return PoolContent{fmt.Sprintf("volume %s (in the trash, %s)", d.Volume, short),
			"drover trash purge " + short + " --dry-run"}
	case StatePurging:
		return PoolContent{fmt.Sprintf("the remaining data of volume %s (purged, %s)", d.Volume, short),
			"removed automatically, try again soon"}
	}
	return PoolContent{"volume " + d.Volume, fmt.Sprintf("drover volume rm %s --dry-run", d.Volume)}
}

// PoolContent describes the copy as a thing that prevents the removal of its pool. volume is the name of the copied
// volume, and node is the name of the node that keeps the copy.
func (c Copy) PoolContent(volume, node string) PoolContent {
	switch c.Kind {
	case CopyReplica:
		return PoolContent{"a replica of volume " + volume, "delete the volume, or run drover node drain " + node}
	case CopySuperseded:
		return PoolContent{"a superseded copy of volume " + volume,
			fmt.Sprintf("drover copy mount %s %s shows it", c.Dataset, node)}
	case CopyLeft:
		return PoolContent{"a copy of volume " + volume + " from before a move",
			"removed automatically some time after the move"}
	}
	return PoolContent{"the remaining data of a copy of volume " + volume, "removed automatically, try again soon"}
}
