package agent

import (
	"slices"

	"github.com/google/uuid"

	"github.com/droverhq/drover/agent/findings"
	"github.com/droverhq/drover/backends"
)

// warnings returns what an open pool warns of; see backends.Warner.
func warnings(b backends.Pool) []string {
	if w, ok := b.(backends.Warner); ok {
		return w.Warnings()
	}
	return nil
}

// warn logs those warnings of a pool that it did not give the last time.
func (p *pools) warn(id uuid.UUID, now []string) {
	var before []string
	p.change(id, func(op *openPool) { before, op.warned = op.warned, now })
	for _, line := range now {
		if !slices.Contains(before, line) {
			p.log.WithField("pool", p.name(id)).Warn("pool: " + line)
		}
	}
}

// checkWarnings reports what a pool warns of.
func checkWarnings(r *diagnosis, p *openPool) {
	for _, line := range warnings(p.backend) {
		r.Add(findings.Warning, "pool "+p.Name, "", "%s", line)
	}
}
