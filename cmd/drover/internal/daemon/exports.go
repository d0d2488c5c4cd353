package daemon

import (
	"context"
	"path/filepath"

	"github.com/droverhq/drover/agent/backup"
	"github.com/droverhq/drover/agent/host"
	"github.com/droverhq/drover/control/repositories"
	"github.com/droverhq/drover/dataset"
	"github.com/droverhq/drover/internal/restic"
	"github.com/droverhq/drover/internal/run"
)

// exportStorer stores exports of the records in repositories, from the process of control: only control may read all
// records. It reads passwords and runs their programs by the same rules as an agent. It implements
// repositories.Repositories.
type exportStorer struct{ *process }

// Store implements repositories.Repositories.
func (s exportStorer) Store(ctx context.Context, r dataset.Repository, e repositories.Export) error {
	opened, err := OpenRepository(ctx, s.Options, filepath.Join(s.Root, "export-cache"), r)
	if err != nil {
		return err
	}
	removal, err := Store(ctx, opened, filepath.Join(s.Root, "export"), e)
	if removal != nil && ctx.Err() == nil {
		s.Log.WithError(removal).WithField("repository", r.Name).
			Warn("cannot remove expired exports of the records: trying again after the next export")
	}
	return err
}

// OpenRepository returns the repository of a record. It checks the record and the password program as an agent does:
// see backup.Checker. cacheDir is a private folder for restic's cache. OpenRepository does not reach the
// repository.
func OpenRepository(ctx context.Context, o Options, cacheDir string, r dataset.Repository) (*restic.Repository,
	error) {
	return backup.NewChecker(backup.Deps{
		CacheDir: cacheDir, Programs: &host.Programs{Runner: &run.System{}, Allowed: o.FencePrograms},
	}).Restic(ctx, r)
}
