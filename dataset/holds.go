package dataset

import (
	"fmt"
	"strings"
)

// namedFirst is how many things in a pool a refusal names.
const namedFirst = 3

// Holds is the refusal to remove a pool because of what lies in it, or is on record there:
// ErrConflict, with the first three. nil when that is nothing.
func Holds(pool string, what []string) error {
	if len(what) == 0 {
		return nil
	}
	more := ""
	if n := len(what) - namedFirst; n > 0 {
		what, more = what[:namedFirst], fmt.Sprintf(" and %d more", n)
	}
	return Errorf(ErrConflict, "pool %s holds %s%s: only an empty one goes (drover volume move or drover volume rm, then drover trash purge; a replica goes with its volume, or by drover node drain, a superseded copy by drover volume superseded discard; drover doctor says what else lies there)",
		pool, strings.Join(what, ", "), more)
}
