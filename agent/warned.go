package agent

import (
	"github.com/droverhq/drover/agent/findings"
	"github.com/droverhq/drover/agent/pool"
)

// checkWarnings reports what a pool warns of.
func checkWarnings(r *diagnosis, p *pool.Pool) {
	for _, line := range pool.Warnings(p.Storage) {
		r.Add(findings.Warning, "pool "+p.Name, "", "%s", line)
	}
}
