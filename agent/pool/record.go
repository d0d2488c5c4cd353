package pool

import (
	"time"

	"github.com/google/uuid"

	"github.com/droverhq/drover/dataset"
)

// Record is what the agent's database says of a pool, under pools/NAME.
type Record struct {
	ID      uuid.UUID    `json:"id"`
	Backend string       `json:"backend"`
	Path    string       `json:"path"`
	Image   dataset.Size `json:"image,omitempty"`
	Mount   string       `json:"mount,omitempty"`
	Devices []string     `json:"devices,omitempty"`
	Trimmed time.Time    `json:"trimmed,omitzero"` // when its devices were last told what is free
	Default bool         `json:"default,omitempty"`
	// Found says that nobody has looked yet at what was incoming when this node took
	// the pool in, Doubtful what of it nobody can say whether it was acknowledged.
	Found    bool        `json:"found,omitempty"`
	Doubtful []uuid.UUID `json:"doubtful,omitempty"`
	// Generation is the highest that this node has heard of; see Pool.held.
	Generation uint64 `json:"generation,omitempty"`
	// Share is the one that it was made on; see Pool.inform.
	Share uuid.UUID `json:"share,omitzero"`
	// Leaving says that it is being removed, Off that control has taken it off its record: then it
	// may be cleared in part, and is no pool any more. See RemovePool.
	Leaving leaving `json:"leaving,omitempty"`
	Off     bool    `json:"off,omitempty"`
}
