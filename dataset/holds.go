package dataset

import (
	"fmt"
	"strings"
)

const (
	namedFirst = 3   // is how many things in a pool a refusal names
	holdsBytes = 400 // is how long it is at most, unless one thing alone is longer
)

// Held is something that keeps a pool: what it is, and what makes it go.
type Held struct{ What, Mend string }

// Holds is the refusal to remove a pool because of what lies in it, or is on record there:
// ErrConflict, with up to three of it, each with what would do. nil when that is nothing.
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

// Held is the dataset as what keeps the pool of its home.
func (d Dataset) Held() Held {
	short := d.ID.String()[:8]
	switch d.State {
	case StateTrashed:
		return Held{fmt.Sprintf("volume %s (in the trash, %s)", d.Volume, short), "drover trash purge " + short}
	case StatePurging:
		return Held{fmt.Sprintf("what is left of volume %s (purged, %s)", d.Volume, short),
			"goes by itself, try again soon"}
	}
	return Held{"volume " + d.Volume, fmt.Sprintf("drover volume rm %s, then drover trash purge %s", d.Volume, short)}
}

// Held is the copy as what keeps its pool. volume names the one it is of; node is its node's name.
func (c Copy) Held(volume, node string) Held {
	switch c.Kind {
	case CopyReplica:
		return Held{"a replica of volume " + volume, "goes with its volume, or by drover node drain " + node}
	case CopySuperseded:
		return Held{"an overtaken head of volume " + volume,
			fmt.Sprintf("drover volume superseded discard %s %s", c.Dataset, node)}
	case CopyLeft:
		return Held{"what a move left of volume " + volume, "goes by itself in time"}
	}
	return Held{"what is left of a copy of volume " + volume, "goes by itself, try again soon"}
}
