package backup

import (
	"sync"

	"github.com/google/uuid"

	"github.com/droverhq/drover/dataset"
)

// maxBegun bounds the operations in memory. When it is reached, no further operation counts as new: their backups take
// one more run of restic.
const maxBegun = 1 << 18

// begunOperations are the operations that this start of the agent has run. It is safe for concurrent use.
type begunOperations struct {
	mu  sync.Mutex
	ids map[uuid.UUID]bool
}

// begin notes that an operation runs, and reports whether no earlier run of it can have stored a backup. agent is the
// incarnation of this agent. Control writes the incarnation of the agent into an operation when it records the request.
// If it is the same, no earlier start of the agent has run the operation, and this one remembers what it has run.
func (b *begunOperations) begin(op dataset.Operation, agent uuid.UUID) (isNew bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	isNew = op.Incarnation != uuid.Nil && op.Incarnation == agent && !b.ids[op.ID] && len(b.ids) < maxBegun
	if b.ids == nil {
		b.ids = map[uuid.UUID]bool{}
	}
	if len(b.ids) < maxBegun {
		b.ids[op.ID] = true
	}
	return isNew
}
