package pool

import (
	"time"

	"github.com/google/uuid"

	"github.com/droverhq/drover/dataset"
)

// Record is a pool in the agent's database, under pools/NAME.
type Record struct {
	ID      uuid.UUID    `json:"id"`
	Backend string       `json:"backend"`
	Path    string       `json:"path"`
	Image   dataset.Size `json:"image,omitempty"`
	Mount   string       `json:"mount,omitempty"`
	Devices []string     `json:"devices,omitempty"`
	Trimmed time.Time    `json:"trimmed,omitzero"` // when its devices were last told which blocks are free
	Default bool         `json:"default,omitempty"`
	// Found says that the datasets which were incoming when this node adopted the pool were not examined yet.
	// Doubtful are the incoming datasets of which it is unknown whether they were acknowledged.
	Found    bool        `json:"found,omitempty"`
	Doubtful []uuid.UUID `json:"doubtful,omitempty"`
	// Generation is the highest generation that this node has heard of; see Pool.Held.
	Generation uint64 `json:"generation,omitempty"`
	// Share is the share that the pool was made on; see Pool.inform.
	Share uuid.UUID `json:"share,omitzero"`
	// Leaving says that the pool is being removed. Off says that control has removed it from the store: from then
	// on it may be cleared in part and is no pool any more. See RemovePool.
	Leaving leaving `json:"leaving,omitempty"`
	Off     bool    `json:"off,omitempty"`
}
