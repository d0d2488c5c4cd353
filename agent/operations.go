package agent

import (
	"context"
	"path/filepath"
	"slices"
	"time"

	"github.com/google/uuid"

	"github.com/droverhq/drover/agent/backup"
	"github.com/droverhq/drover/agent/host"
	"github.com/droverhq/drover/agent/mounting"
	"github.com/droverhq/drover/agent/move"
	"github.com/droverhq/drover/agent/operation"
	"github.com/droverhq/drover/backends"
	"github.com/droverhq/drover/control/api"
	"github.com/droverhq/drover/dataset"
	"github.com/droverhq/drover/internal/restic"
)

// makeOperations creates the components that execute operations.
func (a *components) makeOperations() {
	a.Operations = operation.NewRunner(operation.RunnerDeps{
		Host: a.Host, Explain: a.Prober.ExplainOperation,
		Ended: func(op dataset.Operation, err error, took time.Duration) {
			a.Status.OperationEnded(op, err)
			if a.Config.OperationEnded != nil {
				a.Config.OperationEnded(op, err, took)
			}
		},
		Holders: a.Holders.Examine,
	})
	a.Requester = operation.NewRequester(operation.RequesterDeps{Host: a.Host, Plan: a.Registration.Plan})
	a.Sizes = operation.NewSizes(operation.SizesDeps{
		Host: a.Host, Pools: a.Pools, MayChange: a.Leases.MayChange,
		Joined: func() bool { return a.Registration.HasJoined() },
	})
	a.RecordFiles = operation.NewRecordWriter(operation.RecordWriterDeps{
		Host: a.Host, Pools: a.Pools, ProfileChanged: a.Throttle.ProfileChanged,
	})
	a.Datasets = operation.NewDatasets(operation.DatasetsDeps{
		Host: a.Host, Operations: a.Operations, Pools: a.Pools, MayChange: a.Leases.MayChange, NameOf: a.Nodes.Name,
		ProfileChanged: a.Throttle.ProfileChanged,
		StatusOfNew: func(ctx context.Context, op dataset.Operation) *dataset.DatasetStatus {
			return a.Status.StatusOfNew(ctx, op)
		},
	})
	a.Executor = operation.NewExecutor(operation.ExecutorDeps{
		Host: a.Host, Operations: a.Operations, Handlers: a.operationHandlers(), PoolChanged: a.Pools.MarkChanged,
	})
}

// makeExporter creates the component that reads volumes for users.
func (a *components) makeExporter() {
	a.Exporter = operation.NewExporter(operation.ExporterDeps{
		Host: a.Host, Pools: a.Pools, Throttle: a.Throttle, Reserve: a.Reservations.Reserve,
		Prepare: a.Quiescer.Prepare, BorrowKey: a.Keys.BorrowKey, FlushFailed: a.flushFailed,
	})
}

// makeBackups creates the components that make, list and restore backups.
func (a *components) makeBackups() {
	a.Repositories = backup.NewChecker(backup.Deps{
		CacheDir: filepath.Join(a.Root, "restic-cache"), Records: a.Control, Programs: a.Programs, Log: a.Log,
		Clock: a.Clock, Used: a.usedRepositories, StallLimit: a.Config.StallLimit,
	})
	a.Catalog = backup.NewCatalog(a.Repositories, a.Identity)
	a.Restorer = a.Catalog.NewRestorer(a.MountRoot())
	a.Backups = a.Catalog.NewCreator(backup.CreatorDeps{
		Host: a.Host, Version: a.Config.Version, Pools: a.Pools, LockForOperation: a.Datasets.LockForOperation,
		Clone: func(ctx context.Context, pool backends.Pool, d, scratch dataset.Dataset, src dataset.Source) (
			time.Time, bool, error) {
			taken, exact, err := a.Exporter.Clone(ctx, pool, d, scratch, src)
			return taken, exact, a.Space.AddHint(ctx, d.Pool, err)
		},
		HasPool:   func(id uuid.UUID) bool { return a.Pools.ByID(id) != nil },
		BorrowKey: a.Keys.BorrowKey, Lost: a.LostWrites, OpenTree: mounting.OpenTree,
		Open: func(ctx context.Context, r dataset.Repository) (*restic.Repository, error) {
			return a.Repositories.Restic(ctx, r)
		},
		Report: a.Operations.Report,
	})
}

// usedRepositories returns the names of the repositories that scheduled backups of this node's volumes use.
func (a *components) usedRepositories() (names []string) {
	for _, id := range a.Cache.IDs() {
		d, ok := a.Cache.Dataset(id)
		if to := d.Profile.Backup.To; ok && to != "" && d.Home == a.NodeID && d.State == dataset.StateReady &&
			!slices.Contains(names, to) {
			names = append(names, to)
		}
	}
	return names
}

// operationHandlers returns the function that executes each kind of operation.
func (a *components) operationHandlers() map[dataset.OpKind]operation.Handler {
	a.DatasetMaker = operation.NewDatasetMaker(operation.DatasetMakerDeps{
		Host: a.Host, Datasets: a.Datasets, Records: a.RecordFiles, Pools: a.Pools, Space: a.Space, Seal: a.Keys.Seal,
		Provision: a.Provisioning.Reserve,
		MayChange: a.Leases.MayChange, Reserve: a.Reservations.Reserve, Prepare: a.Quiescer.Prepare,
	})
	a.Importer = operation.NewImporter(operation.ImporterDeps{
		Host: a.Host, Operations: a.Operations, Maker: a.DatasetMaker, Pools: a.Pools, Plan: a.Registration.Plan,
		Backups:        func() operation.Backups { return a.Restorer },
		RunCheck:       backup.NewCheckRunner(a.Programs, a.Root, mounting.OpenTree).Run,
		SharesRootDisk: a.Space.SharesRootDisk,
	})
	a.Snapshotter = operation.NewSnapshotter(operation.SnapshotterDeps{
		Host: a.Host, Datasets: a.Datasets, Records: a.RecordFiles, Sizes: a.Sizes, Space: a.Space,
		Reserve: a.Reservations.Reserve, Prepare: a.Quiescer.Prepare, EnsureUnused: a.Verifier.EnsureUnused,
	})
	resizer := operation.NewResizer(operation.ResizerDeps{
		Host: a.Host, Datasets: a.Datasets, Records: a.RecordFiles, Sizes: a.Sizes,
		Provision: a.Provisioning.Reserve,
		Report:    func(ctx context.Context, id uuid.UUID) { a.Reporter.ReportDataset(ctx, id) },
	})
	rekeyer := operation.NewRekeyer(operation.RekeyerDeps{
		Datasets: a.Datasets, Records: a.RecordFiles, Keys: a.Keys,
	})
	a.VolumeRemover = operation.NewRemover(operation.RemoverDeps{
		Host: a.Host, Datasets: a.Datasets, Records: a.RecordFiles, EnsureUnused: a.Verifier.EnsureUnused,
		MarkDeleted: a.Spellings.MarkDeleted, ForgetSpellings: a.Spellings.Forget, DropUses: a.Uses.Drop,
		PurgeLater: func(d dataset.Dataset) { a.Executor.PurgeLater(d) },
		CheckPool: func(ctx context.Context, id uuid.UUID) error {
			_, err := a.Pools.Online(ctx, id)
			return err
		},
	})
	bounder := move.NewBounder(move.BounderDeps{
		Host: a.Host, Datasets: a.Datasets, Records: a.RecordFiles, Deadlines: a.Deadlines, Registrar: a.Registrar,
		EnsureUnused: a.Verifier.EnsureUnused,
	})
	a.makeBackups()
	return map[dataset.OpKind]operation.Handler{
		dataset.OpCreate: a.DatasetMaker.Create, dataset.OpClone: a.DatasetMaker.Create,
		dataset.OpImport: a.Importer.Import, dataset.OpVerify: a.Importer.Verify,
		dataset.OpSnapshot: a.Snapshotter.Take, dataset.OpSnapshotDelete: a.Snapshotter.Delete,
		dataset.OpRestore: a.Snapshotter.Restore, dataset.OpResize: resizer.Resize,
		dataset.OpRekey: rekeyer.Rekey, dataset.OpUpdate: bounder.Update,
		dataset.OpBackup: a.Backups.Create, dataset.OpPush: a.Backups.Create,
		dataset.OpDelete: a.VolumeRemover.Delete, dataset.OpPurge: a.VolumeRemover.Purge,
		dataset.OpMove: func(ctx context.Context, jb *host.Job, op *dataset.Operation) (api.Committed, error) {
			return a.Mover.Move(ctx, jb, op)
		},
	}
}
