package agent

import (
	"context"

	"github.com/droverhq/drover/agent/findings"
	"github.com/droverhq/drover/agent/lease"
	"github.com/droverhq/drover/guard"
)

// checkGuard adds findings on the guard, if there should be one.
func (a *Agent) checkGuard(ctx context.Context, r *diagnosis) {
	if a.config.Guard == nil {
		return
	}
	st, err := a.config.Guard.Status(ctx)
	if err != nil {
		r.Add(findings.Info, "guard", lease.StartGuard,
			"%v: no volume with failover auto is put on this host, or mounted", err)
		return
	}
	r.Add(findings.OK, "guard", "", "answers; it watches over %d datasets", len(st.Datasets))
	for _, m := range st.Missing {
		r.Add(findings.Warning, "guard", "run it by its unit, on the host itself", "is weaker than it should be: %s", m)
	}
	for _, e := range st.Datasets {
		if e.State == guard.StateFencing || e.State == guard.StateFenced {
			r.Add(findings.Error, "volume "+e.Volume, "",
				"is %s: nobody may write to it until control, or every node with a copy, vouches for it", e.State)
		}
	}
}

// SeenGuard is lease.Registrar.Status.
func (a *Agent) SeenGuard(ctx context.Context) (guard.Status, error) { return a.registrar.Status(ctx) }
