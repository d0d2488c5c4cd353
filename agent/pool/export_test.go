package pool

import "github.com/google/uuid"

// JoinReading joins a reading of the status of a pool, as ReadStatus does. Two callers that get the same channel share
// one reading. The channel is closed when the reading has ended.
func (t *Pools) JoinReading(id uuid.UUID) <-chan struct{} { return t.joinReading(id).done }

// MarkHung marks a pool as hanging, as a caller does that has waited for AskPatience.
func (t *Pools) MarkHung(id uuid.UUID) { _ = t.markHung(id, t.ByID(id).Question) }
