package agent

import (
	"context"

	"github.com/droverhq/drover/guard"
)

// SeenGuard is lease.Registrar.Status.
func (a *Agent) SeenGuard(ctx context.Context) (guard.Status, error) { return a.registrar.Status(ctx) }
