package pool

import (
	"context"
	"slices"

	"github.com/google/uuid"
)

// IsDistrusted reports whether it is unknown if an incoming dataset was acknowledged.
func (p *Pools) IsDistrusted(pool, id uuid.UUID) bool {
	p.mu.RLock()
	defer p.mu.RUnlock()
	op := p.byID[pool]
	return op != nil && (op.Record.Found || slices.Contains(op.Record.Doubtful, id))
}

// DistrustAll marks all incoming datasets of a pool as doubtful.
func (p *Pools) DistrustAll(ctx context.Context, pool uuid.UUID) error {
	return p.Distrust(ctx, pool, true, nil)
}

// Distrust records which incoming datasets of a pool may have been acknowledged: those in ids, or all of them.
func (p *Pools) Distrust(ctx context.Context, pool uuid.UUID, all bool, ids []uuid.UUID) error {
	return p.Keep(ctx, pool, func(rec *Record) { rec.Found, rec.Doubtful = all, ids })
}
