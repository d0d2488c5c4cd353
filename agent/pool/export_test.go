package pool

import "github.com/google/uuid"

// JoinReading joins a reading of the status of a pool, as ReadStatus does. Two callers that get the same channel share
// one reading. The channel is closed when the reading has ended.
func (p *Pools) JoinReading(id uuid.UUID) <-chan struct{} { return p.joinReading(id).done }

// HoldReading makes the next callers of ReadStatus join a reading that ends when end is called.
func (p *Pools) HoldReading(id uuid.UUID) (end func()) {
	r := &statusReading{done: make(chan struct{})}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.readings[id] = r
	return func() { close(r.done) }
}

// MarkHung marks a pool as hanging, as a caller does that has waited for AskPatience.
func (p *Pools) MarkHung(id uuid.UUID) { _ = p.markHung(id, p.ByID(id).Question) }
