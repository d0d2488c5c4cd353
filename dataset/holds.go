package dataset

import (
	"fmt"
	"strings"
)

const (
	namedFirst = 3   // number of things in a pool that an error names
	holdsBytes = 400 // longest text of such an error, unless a single thing is longer
)

// Held is a thing that prevents the removal of a pool, with the way to remove the thing.
type Held struct{ What, Mend string }

// Holds returns the error for a pool that cannot be removed because of its content or of records. It is ErrConflict,
// and names up to three of these things, each with the way to remove it. If there are none, Holds returns nil.
func Holds(pool string, held []Held) error {
	if len(held) == 0 {
		return nil
	}
	text := ""
	for n := min(len(held), namedFirst); n > 0; n-- {
		var parts []string
		for _, h := range held[:n] {
			parts = append(parts, h.What+": "+h.Mend)
		}
		if more := len(held) - n; more > 0 {
			parts = append(parts, fmt.Sprintf("and %d more", more))
		}
		if text = fmt.Sprintf("pool %s holds %s", pool, strings.Join(parts, "; ")); len(text) <= holdsBytes {
			break
		}
	}
	return Errorf(ErrConflict, "%s", text)
}

// Held describes the dataset as a thing that prevents the removal of its home's pool.
func (d Dataset) Held() Held {
	short := d.ID.String()[:8]
	switch d.State {
	case StateTrashed:
		return Held{fmt.Sprintf("volume %s (in the trash, %s)", d.Volume, short),
			"drover trash purge " + short + " --dry-run"}
	case StatePurging:
		return Held{fmt.Sprintf("what is left of volume %s (purged, %s)", d.Volume, short),
			"goes by itself, try again soon"}
	}
	return Held{"volume " + d.Volume, fmt.Sprintf("drover volume rm %s --dry-run", d.Volume)}
}

// Held describes the copy as a thing that prevents the removal of its pool. volume is the name of the copied volume,
// and node is the name of the node that keeps the copy.
func (c Copy) Held(volume, node string) Held {
	switch c.Kind {
	case CopyReplica:
		return Held{"a replica of volume " + volume, "goes with its volume, or by drover node drain " + node}
	case CopySuperseded:
		return Held{"an overtaken head of volume " + volume,
			fmt.Sprintf("drover volume superseded mount %s %s shows it", c.Dataset, node)}
	case CopyLeft:
		return Held{"what a move left of volume " + volume, "goes by itself in time"}
	}
	return Held{"what is left of a copy of volume " + volume, "goes by itself, try again soon"}
}
