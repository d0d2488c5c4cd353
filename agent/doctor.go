package agent

import (
	"context"

	"github.com/droverhq/drover/agent/doctor"
	"github.com/droverhq/drover/guard"
)

// DamagedMark is part of the names of files in the root that could not be read at a start and were renamed: see
// doctor.DamagedMark.
const DamagedMark = doctor.DamagedMark

// GuardStatus calls lease.Registrar.Status.
func (a *Agent) GuardStatus(ctx context.Context) (guard.Status, error) {
	return a.Leases.Registrar.Status(ctx)
}
