package agenttest

import (
	"context"

	"github.com/droverhq/drover/agent"
	"github.com/droverhq/drover/dataset"
	"github.com/droverhq/drover/plugin"
)

// engineCalls has the requests of an engine, with the volume names as the engine sends them. Its methods parse the
// names as package plugin does.
type engineCalls struct{ *agent.Agent }

func (c engineCalls) Create(ctx context.Context, spelling string, opts map[string]string) error {
	return c.Agent.Create(ctx, dataset.ParseReference(spelling), opts)
}

func (c engineCalls) Remove(ctx context.Context, spelling string) error {
	return c.Agent.Remove(ctx, dataset.ParseReference(spelling))
}

func (c engineCalls) Mount(ctx context.Context, spelling, id string) (string, error) {
	return c.Agent.Mount(ctx, dataset.ParseReference(spelling), id)
}

func (c engineCalls) Unmount(ctx context.Context, spelling, id string) error {
	return c.Agent.Unmount(ctx, dataset.ParseReference(spelling), id)
}

func (c engineCalls) Get(ctx context.Context, spelling string) (plugin.Volume, error) {
	return c.Agent.Get(ctx, dataset.ParseReference(spelling))
}

func (c engineCalls) Path(ctx context.Context, spelling string) (string, error) {
	return c.Agent.Path(ctx, dataset.ParseReference(spelling))
}
