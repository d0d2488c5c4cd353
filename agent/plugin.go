package agent

import (
	"context"

	"github.com/droverhq/drover/dataset"
	"github.com/droverhq/drover/plugin"
)

var _ plugin.Agent = (*Agent)(nil)

// Mount is mounting.Mounter.Mount.
func (a *Agent) Mount(ctx context.Context, ref dataset.Reference, id string) (string, error) {
	return a.Mounter.Mount(ctx, ref, id)
}

// Unmount is mounting.Mounter.Unmount.
func (a *Agent) Unmount(ctx context.Context, ref dataset.Reference, id string) error {
	return a.Mounter.Unmount(ctx, ref, id)
}

// Activated is mounting.Verifier.Activated.
func (a *Agent) Activated(ctx context.Context) { a.Verifier.Activated(ctx) }
