package agent

import (
	"context"

	"github.com/google/uuid"

	"github.com/droverhq/drover/agent/operation"
	"github.com/droverhq/drover/dataset"
	"github.com/droverhq/drover/plugin"
)

var _ plugin.Agent = (*Agent)(nil)

// makeFinder creates the component that finds the volume that a tool names.
func (a *components) makeFinder() {
	a.Spellings = operation.NewSpellings(a.Host)
	a.Finder = operation.NewFinder(operation.FinderDeps{
		Host: a.Host, Spellings: a.Spellings,
		SharedMountNamed: func(name string) (dataset.Dataset, bool) { return a.SharedMountTable.Named(name) },
		MountedAs:        func(spelling string) (dataset.Dataset, bool) { return a.Mounter.MountedAs(spelling) },
	})
}

// makeVolumes creates the components that show volumes to the tools of this host and execute their requests.
func (a *components) makeVolumes() {
	a.Viewer = operation.NewViewer(operation.ViewerDeps{
		Host: a.Host, Finder: a.Finder, PoolName: a.Pools.Name, NameOf: a.Nodes.Name,
		StatusOf: func(ctx context.Context, d dataset.Dataset) dataset.DatasetStatus { return a.Status.Status(ctx, d) },
		HasSharedMount: func(id uuid.UUID) bool {
			_, shared := a.SharedMountTable.Get(id)
			return shared
		},
		MountsOf:   func(id uuid.UUID) []dataset.Mount { return a.Engines.MountsOf(a.Uses.Get(id)) },
		ListOthers: a.Config.ListAll,
	})
	a.Requests = operation.NewRequests(operation.RequestsDeps{
		Host: a.Host, Finder: a.Finder, Spellings: a.Spellings, Requester: a.Requester, Plan: a.Registration.Plan,
		Creator: operation.NewVolumeCreator(operation.VolumeCreatorDeps{
			Host: a.Host, Plan: a.Registration.Plan, Requester: a.Requester, Executor: a.Executor,
		}),
		Execute: a.Executor.Execute, CheckUnmounted: a.Verifier.CheckUnmounted,
		Holders: a.Holders.Examine,
	})
}

// Get is operation.Viewer.Get.
func (a *Agent) Get(ctx context.Context, ref dataset.Reference) (plugin.Volume, error) {
	return a.Viewer.Get(ctx, ref)
}

// List is operation.Viewer.List.
func (a *Agent) List(ctx context.Context) ([]plugin.Volume, error) { return a.Viewer.List(ctx) }

// Path is operation.Viewer.Path.
func (a *Agent) Path(ctx context.Context, ref dataset.Reference) (string, error) {
	return a.Viewer.Path(ctx, ref)
}

// Help is operation.Viewer.Help.
func (a *Agent) Help(ctx context.Context) string { return a.Viewer.Help(ctx) }

// Create is operation.Requests.Create.
func (a *Agent) Create(ctx context.Context, ref dataset.Reference, opts map[string]string) error {
	return a.Requests.Create(ctx, ref, opts)
}

// Remove is operation.Requests.Remove.
func (a *Agent) Remove(ctx context.Context, ref dataset.Reference) error {
	return a.Requests.Remove(ctx, ref)
}

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
