package agent

import (
	"context"

	"github.com/droverhq/drover/agent/jobs"
	"github.com/droverhq/drover/agent/operation"
	"github.com/droverhq/drover/control/api"
	"github.com/droverhq/drover/dataset"
)

// makeOperations makes what executes operations.
func (a *components) makeOperations() {
	a.operations = operation.NewRunner(operation.RunnerDeps{
		Host: a.Host, Blame: a.prober.BlameOperation,
	})
	a.requester = operation.NewRequester(operation.RequesterDeps{Host: a.Host, Plan: a.registration.Plan})
	a.sizes = operation.NewSizes(operation.SizesDeps{
		Host: a.Host, Pools: a.pools, MayChange: a.leases.MayChange,
		Joined: func() bool { return a.registration.HasJoined() },
	})
	a.recordFiles = operation.NewRecordWriter(operation.RecordWriterDeps{
		Host: a.Host, Pools: a.pools, ProfileChanged: a.limits.ProfileChanged,
	})
	a.datasets = operation.NewDatasets(operation.DatasetsDeps{
		Host: a.Host, Operations: a.operations, Pools: a.pools, MayChange: a.leases.MayChange, NameOf: a.nodes.Name,
		ProfileChanged: a.limits.ProfileChanged,
	})
	a.executor = operation.NewExecutor(operation.ExecutorDeps{
		Host: a.Host, Operations: a.operations, Acts: a.acts(), PoolChanged: a.pools.Changed,
	})
}

// makeExporter makes what reads volumes for users.
func (a *components) makeExporter() {
	a.exporter = operation.NewExporter(operation.ExporterDeps{
		Host: a.Host, Pools: a.pools, Throttle: a.limits, Reserve: a.reservations.Reserve, Freeze: a.quiescer.Freeze,
		StandIn: a.keys.StandIn,
	})
}

// acts returns what executes each kind of operation.
func (a *components) acts() map[dataset.OpKind]operation.Act {
	a.maker = operation.NewMaker(operation.MakerDeps{
		Host: a.Host, Datasets: a.datasets, Records: a.recordFiles, Pools: a.pools, Space: a.space, Seal: a.keys.Seal,
		MayChange: a.leases.MayChange, Reserve: a.reservations.Reserve, Freeze: a.quiescer.Freeze,
	})
	a.importer = operation.NewImporter(operation.ImporterDeps{
		Host: a.Host, Operations: a.operations, Maker: a.maker, Pools: a.pools, Plan: a.registration.Plan,
	})
	a.snapshotter = operation.NewSnapshotter(operation.SnapshotterDeps{
		Host: a.Host, Datasets: a.datasets, Records: a.recordFiles, Sizes: a.sizes, Space: a.space,
		Reserve: a.reservations.Reserve, Freeze: a.quiescer.Freeze, EnsureUnused: a.verifier.EnsureUnused,
	})
	reshaper := operation.NewReshaper(operation.ReshaperDeps{
		Host: a.Host, Datasets: a.datasets, Records: a.recordFiles, Sizes: a.sizes,
		EnsureUnused: a.verifier.EnsureUnused,
	})
	rekeyer := operation.NewRekeyer(operation.RekeyerDeps{
		Datasets: a.datasets, Records: a.recordFiles, Keys: a.keys,
	})
	remover := operation.NewRemover(operation.RemoverDeps{
		Host: a.Host, Datasets: a.datasets, Records: a.recordFiles, EnsureUnused: a.verifier.EnsureUnused,
		ForgetAliases: a.spellings.Forget, DropUses: a.uses.Drop,
		PurgeLater: func(d dataset.Dataset) { a.executor.PurgeLater(d) },
	})
	return map[dataset.OpKind]operation.Act{
		dataset.OpCreate: a.maker.Create, dataset.OpClone: a.maker.Create, dataset.OpImport: a.importer.ImportFolder,
		dataset.OpSnapshot: a.snapshotter.Take, dataset.OpSnapshotDelete: a.snapshotter.Delete,
		dataset.OpRestore: a.snapshotter.Restore, dataset.OpResize: reshaper.Resize,
		dataset.OpRekey: rekeyer.Rekey, dataset.OpRewrite: reshaper.Rewrite,
		dataset.OpDelete: remover.Delete, dataset.OpPurge: remover.Purge,
		dataset.OpMove: func(ctx context.Context, jb *jobs.Job, op *dataset.Operation) (api.Committed, error) {
			return a.mover.Move(ctx, jb, op)
		},
	}
}
