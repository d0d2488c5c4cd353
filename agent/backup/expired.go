package backup

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"

	"github.com/droverhq/drover/control/api"
	"github.com/droverhq/drover/dataset"
	"github.com/droverhq/drover/internal/restic"
)

// removedAtOnce is how many expired backups one run of restic removes.
const removedAtOnce = 20

// removeExpired removes the backups of an operation's dataset that retention does not keep. It never removes the backup
// that the operation has made. If the removal fails, removeUnwanted tries it again after the next backup. The file of a
// dataset is replaced by the next one, because control names a backup again until it was removed.
func (c *Creator) removeExpired(ctx context.Context, op dataset.Operation, expired []api.ExpiredBackup) {
	expired = slices.DeleteFunc(slices.Clone(expired), func(e api.ExpiredBackup) bool {
		return e.ID == op.Backup || e.Operation == op.ID || c.absent.has(e.ID)
	})
	if len(expired) > 0 {
		u := unwanted{Format: unwantedFormat, Repository: op.Repository, Dataset: op.DatasetID, Expired: expired}
		if err := c.note(u, op.DatasetID); err != nil {
			c.logOf(ctx, op).WithError(err).Warn("cannot remove expired backups: trying again after the next backup")
		}
	}
	c.removeUnwanted(context.WithoutCancel(ctx))
}

// removeNamedExpired removes the expired backups that a file names. It removes only backups that the named operations
// made of the dataset: the repository can be shared with other clusters. If one of them cannot be removed, it removes
// the others, and fails.
func (c *Creator) removeNamedExpired(ctx context.Context, repo *restic.Repository, u unwanted) error {
	list, err := repo.Backups(ctx, TagDrover, DatasetTag(u.Dataset))
	if err != nil && !errors.Is(err, dataset.ErrCorrupt) {
		return err
	}
	complete := err == nil
	var ids, absent []string
	for _, e := range u.Expired {
		found := slices.ContainsFunc(list, func(b restic.Backup) bool {
			tags, ok := ParseTags(b.Tags)
			return ok && b.ID == e.ID && tags.Dataset == u.Dataset && tags.Operation == e.Operation
		})
		if found {
			ids = append(ids, e.ID)
		} else {
			absent = append(absent, e.ID)
		}
	}
	if complete {
		c.absent.add(absent...)
	}
	var failed []error
	for chunk := range slices.Chunk(ids, removedAtOnce) {
		err := repo.Remove(ctx, chunk...)
		switch {
		case err == nil:
			c.absent.add(chunk...)
			continue
		case errors.Is(err, dataset.ErrInUse) || ctx.Err() != nil: // this applies to all of them
			return fmt.Errorf("repository %s: %w", u.Repository, err)
		}
		for _, id := range chunk { // one of them must not prevent the removal of the others
			if err := repo.Remove(ctx, id); err != nil {
				failed = append(failed, fmt.Errorf("repository %s: backup %s: %w", u.Repository, short(id), err))
			} else {
				c.absent.add(id)
			}
		}
	}
	return errors.Join(failed...)
}

// maxAbsent bounds the IDs in absentBackups.
const maxAbsent = 10_000

// absentBackups remembers backups that are not in their repository any more. It is safe for concurrent use.
type absentBackups struct {
	mu  sync.Mutex
	ids map[string]bool
}

func (a *absentBackups) has(id string) bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.ids[id]
}

func (a *absentBackups) add(ids ...string) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.ids == nil || len(a.ids) >= maxAbsent {
		a.ids = map[string]bool{}
	}
	for _, id := range ids {
		a.ids[id] = true
	}
}
