package agent

import (
	"github.com/droverhq/drover/agent/findings"
	"github.com/droverhq/drover/agent/pool"
)

// checkWarnings reports the warnings of a pool.
func checkWarnings(r *diagnosis, p *pool.Pool) {
	for _, line := range pool.Warnings(p.Storage) {
		r.Add(findings.Warning, "pool "+p.Name, "", "%s", line)
	}
}
