package agent

import (
	"context"

	"github.com/google/uuid"

	"github.com/droverhq/drover/agent/volume"
	"github.com/droverhq/drover/dataset"
	"github.com/droverhq/drover/plugin"
)

var _ plugin.Agent = (*Agent)(nil)

// makeFinder makes what finds the volume that a tool names.
func (a *components) makeFinder() {
	a.spellings = volume.NewSpellings(a.Host)
	a.finder = volume.NewFinder(volume.FinderDeps{
		Host: a.Host, Spellings: a.spellings,
		GuestNamed: func(name string) (dataset.Dataset, bool) { return a.guestTable.Named(name) },
	})
}

// makeVolumes makes what shows volumes to the tools of this host, and executes their requests.
func (a *components) makeVolumes() {
	a.viewer = volume.NewViewer(volume.ViewerDeps{
		Host: a.Host, Finder: a.finder, PoolName: a.pools.Name, NameOf: a.nodes.Name,
		StatusOf: func(ctx context.Context, d dataset.Dataset) dataset.DatasetStatus { return a.status.Status(ctx, d) },
		IsGuest: func(id uuid.UUID) bool {
			_, guest := a.guestTable.Get(id)
			return guest
		},
		MountsOf:   func(id uuid.UUID) []dataset.Mount { return a.engines.MountsOf(a.uses.Get(id)) },
		ListOthers: a.config.ListAll,
	})
	a.requests = volume.NewRequests(volume.RequestsDeps{
		Host: a.Host, Finder: a.finder, Spellings: a.spellings, Requester: a.requester, Plan: a.registration.Plan,
		Execute: a.executor.Execute, CheckUnmounted: a.verifier.CheckUnmounted,
	})
}

// Get is volume.Viewer.Get.
func (a *Agent) Get(ctx context.Context, ref dataset.Reference) (plugin.Volume, error) {
	return a.viewer.Get(ctx, ref)
}

// List is volume.Viewer.List.
func (a *Agent) List(ctx context.Context) ([]plugin.Volume, error) { return a.viewer.List(ctx) }

// Path is volume.Viewer.Path.
func (a *Agent) Path(ctx context.Context, ref dataset.Reference) (string, error) {
	return a.viewer.Path(ctx, ref)
}

// Help is volume.Viewer.Help.
func (a *Agent) Help(ctx context.Context) string { return a.viewer.Help(ctx) }

// Create is volume.Requests.Create.
func (a *Agent) Create(ctx context.Context, ref dataset.Reference, opts map[string]string) error {
	return a.requests.Create(ctx, ref, opts)
}

// Remove is volume.Requests.Remove.
func (a *Agent) Remove(ctx context.Context, ref dataset.Reference) error {
	return a.requests.Remove(ctx, ref)
}

// Mount is mounting.Mounter.Mount.
func (a *Agent) Mount(ctx context.Context, ref dataset.Reference, id string) (string, error) {
	return a.mounter.Mount(ctx, ref, id)
}

// Unmount is mounting.Mounter.Unmount.
func (a *Agent) Unmount(ctx context.Context, ref dataset.Reference, id string) error {
	return a.mounter.Unmount(ctx, ref, id)
}

// Activated is mounting.Verifier.Activated.
func (a *Agent) Activated(ctx context.Context) { a.verifier.Activated(ctx) }
