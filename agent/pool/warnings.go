package pool

import (
	"slices"

	"github.com/google/uuid"

	"github.com/droverhq/drover/backends"
)

// Warnings returns the warnings of an open pool; see backends.Warner.
func Warnings(b backends.Pool) []string {
	if w, ok := b.(backends.Warner); ok {
		return w.Warnings()
	}
	return nil
}

// warn logs the warnings of a pool that it did not give the last time.
func (p *Pools) warn(id uuid.UUID, now []string) {
	var before []string
	p.Change(id, func(op *Pool) { before, op.warned = op.warned, now })
	for _, line := range now {
		if !slices.Contains(before, line) {
			p.Log.WithField("pool", p.Name(id)).Warn("pool: " + line)
		}
	}
}
