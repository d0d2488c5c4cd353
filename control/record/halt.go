package record

import (
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/google/uuid"

	"github.com/droverhq/drover/dataset"
)

// Halt is the value of HaltedKey. It exists while the store is inconsistent: it was restored from an older backup, or
// it is another store. A decision would be based on an old state. For example, a name that is free in the store may
// belong to a volume, or a decision could overwrite a later change. So no service decides anything until every node
// that reported the problem trusts the store again.
type Halt struct {
	At    time.Time            `json:"at"`
	Nodes map[uuid.UUID]string `json:"nodes,omitempty"` // why each node does not trust the store
	// HighestClock is the highest store clock that a service has seen. It is set only while that clock is higher than
	// the present clock of the store. Only drover store recover resets it.
	HighestClock uint64 `json:"saw,omitempty"`
	Shared       bool   `json:"shared,omitempty"` // the store is shared by several services: see remedy
}

// Err returns the error for requests while the store is halted, with the command that ends it.
func (h Halt) Err() error {
	var why []string
	for id, w := range h.Nodes {
		why = append(why, fmt.Sprintf("node %.8s: %s", id, w))
	}
	slices.Sort(why)
	if len(why) == 0 {
		why = []string{"it was restored from a backup"}
	}
	return dataset.Errorf(dataset.ErrConflict, "store inconsistent; changes suspended: %s (%s)",
		strings.Join(why, "; "), h.remedy())
}

// remedy returns the command that brings the store up to date.
func (h Halt) remedy() string {
	if h.Shared {
		return "drover store recover"
	}
	return "drover store recover --from-pools"
}
