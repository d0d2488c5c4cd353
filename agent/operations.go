package agent

import (
	"context"
	"path/filepath"
	"slices"
	"time"

	"github.com/google/uuid"

	"github.com/droverhq/drover/agent/backup"
	"github.com/droverhq/drover/agent/mounting"
	"github.com/droverhq/drover/backends"
	"github.com/droverhq/drover/dataset"
	"github.com/droverhq/drover/internal/restic"
)

// makeBackups creates the components that make, list and restore backups.
func (a *components) makeBackups() {
	a.Repositories = backup.NewChecker(backup.Deps{
		CacheDir: filepath.Join(a.Root, "restic-cache"), Records: a.Control, Programs: a.Programs, Log: a.Log,
		Clock: a.Clock, Used: a.usedRepositories, StallLimit: a.Config.StallLimit,
	})
	a.Catalog = backup.NewCatalog(a.Repositories, a.Identity)
	a.Restorer = a.Catalog.NewRestorer(a.MountRoot())
	a.Backups = a.Catalog.NewCreator(backup.CreatorDeps{
		Host: a.Host, Version: a.Config.Version, Pools: a.Pools, LockForOperation: a.LockForOperation,
		Clone: func(ctx context.Context, pool backends.Pool, d, scratch dataset.Dataset, src dataset.Source) (
			time.Time, bool, error) {
			taken, exact, err := a.Clone(ctx, pool, d, scratch, src)
			return taken, exact, a.Pools.AddHint(ctx, d.Pool, err)
		},
		HasPool:   func(id uuid.UUID) bool { return a.Pools.ByID(id) != nil },
		BorrowKey: a.Keys.BorrowKey, Lost: a.LostWrites, OpenTree: mounting.OpenTree,
		Open: func(ctx context.Context, r dataset.Repository) (*restic.Repository, error) {
			return a.Repositories.Restic(ctx, r)
		},
		Report: a.Runner.Report,
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
