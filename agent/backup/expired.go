package backup

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"

	"github.com/google/uuid"

	"github.com/droverhq/drover/control/api"
	"github.com/droverhq/drover/dataset"
	"github.com/droverhq/drover/internal/restic"
)

// removedAtOnce is how many expired backups one run of restic removes at most.
const removedAtOnce = 20

// removeExpired removes the expired backups of an operation's dataset: those that retention does not keep. answer is
// control's answer to the report of the operation, and names them. The list is never stored, because a later change of
// the profile or a restore can make it wrong. If a backup cannot be removed now, control names it again after the next
// backup of the dataset. removeExpired never removes the backup that the operation has made.
func (c *Creator) removeExpired(ctx context.Context, op dataset.Operation, answer api.Committed) {
	ctx = context.WithoutCancel(ctx)
	if expired := c.stillThere(op, answer.Expired); len(expired) > 0 {
		if !c.using.TryLock() {
			c.postponed.add(op)
			return // a later call of removeUnwanted removes them
		}
		c.removeNamedExpired(ctx, op, expired, answer.Retained)
		c.using.Unlock()
	}
	c.removeUnwanted(ctx)
}

// stillThere returns those of some expired backups that may be in their repository.
func (c *Creator) stillThere(op dataset.Operation, expired []api.ExpiredBackup) []api.ExpiredBackup {
	return slices.DeleteFunc(slices.Clone(expired), func(e api.ExpiredBackup) bool {
		return e.ID == op.Backup || e.Operation == op.ID || c.absent.has(e.ID)
	})
}

// removePostponed removes the expired backups whose removal had to wait for other backups of this host. It asks control
// again which ones they are, with the report of the same backup. The caller has locked c.using.
func (c *Creator) removePostponed(ctx context.Context) {
	for _, op := range c.postponed.take() {
		answer, err := c.deps.Report(ctx, &op, nil)
		if err != nil {
			c.logOf(ctx, op).WithError(err).Warn(cannotRemoveExpired)
			continue
		}
		if expired := c.stillThere(op, answer.Expired); len(expired) > 0 {
			c.removeNamedExpired(ctx, op, expired, answer.Retained)
		}
	}
}

const cannotRemoveExpired = "cannot remove expired backups: trying again after the next backup of the volume"

// removeNamedExpired removes expired backups of an operation's dataset. retained are the IDs of those that control
// retains. The caller has locked c.using.
func (c *Creator) removeNamedExpired(ctx context.Context, op dataset.Operation, expired []api.ExpiredBackup,
	retained []string) {
	ctx, cancel := context.WithTimeout(ctx, removalTime)
	defer cancel()
	repo, err := c.openRecorded(ctx, op.Repository)
	if err == nil && repo != nil {
		err = c.removeFrom(ctx, repo, op, expired, retained)
	}
	if err != nil {
		c.logOf(ctx, op).WithError(err).Warn(cannotRemoveExpired)
	}
	for _, e := range expired {
		if e.Final && repo != nil && !c.absent.has(e.ID) {
			c.logOf(ctx, op).WithField("backup", e.ID).WithField("repository", op.Repository).
				Warn("an expired backup stays in its repository: no further attempt to remove it (drover backup ls)")
		}
	}
}

// removeFrom removes expired backups from a repository. It removes only backups that the named operations made of the
// dataset: the repository can be shared with other clusters. If one of them cannot be removed, it removes the others,
// and fails. For each retained backup that the repository lacks, it keeps one more of the newest expired ones.
// If not all backups can be listed, it removes none.
func (c *Creator) removeFrom(ctx context.Context, repo *restic.Repository, op dataset.Operation,
	expired []api.ExpiredBackup, retained []string) error {
	list, err := repo.Backups(ctx, TagDrover, DatasetTag(op.DatasetID))
	if err != nil {
		return err // nobody knows whether the retained ones are there
	}
	var ids, absent []string
	for _, e := range expired {
		found := slices.ContainsFunc(list, func(b restic.Backup) bool {
			tags, ok := ParseTags(b.Tags)
			return ok && b.ID == e.ID && tags.Dataset == op.DatasetID && tags.Operation == e.Operation
		})
		if found {
			ids = append(ids, e.ID)
		} else {
			absent = append(absent, e.ID)
		}
	}
	c.absent.add(absent...)
	// A retained backup that somebody removed by hand, or that the repository has lost, protects nothing.
	missing := 0
	for _, id := range retained {
		if !slices.ContainsFunc(list, func(b restic.Backup) bool { return b.ID == id }) {
			missing++
		}
	}
	ids = ids[:max(0, len(ids)-missing)] // the newest ones are the last
	var failed []error
	for chunk := range slices.Chunk(ids, removedAtOnce) {
		err := repo.Remove(ctx, chunk...)
		switch {
		case err == nil:
			c.absent.add(chunk...)
			continue
		case errors.Is(err, dataset.ErrInUse) || ctx.Err() != nil: // this applies to all of them
			return fmt.Errorf("repository %s: %w", op.Repository, err)
		}
		for _, id := range chunk { // one of them must not prevent the removal of the others
			if err := repo.Remove(ctx, id); err != nil {
				failed = append(failed, fmt.Errorf("repository %s: backup %s: %w", op.Repository, short(id), err))
			} else {
				c.absent.add(id)
			}
		}
	}
	return errors.Join(failed...)
}

// postponedRemovals has the last operation of each dataset whose expired backups must be removed. A restart of the
// agent forgets it. It is safe for concurrent use.
type postponedRemovals struct {
	mu sync.Mutex
	of map[uuid.UUID]dataset.Operation // by dataset
}

func (p *postponedRemovals) add(op dataset.Operation) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.of == nil {
		p.of = map[uuid.UUID]dataset.Operation{}
	}
	p.of[op.DatasetID] = op
}

// take returns the operations, and forgets them.
func (p *postponedRemovals) take() map[uuid.UUID]dataset.Operation {
	p.mu.Lock()
	defer p.mu.Unlock()
	of := p.of
	p.of = nil
	return of
}

// maxAbsent bounds the IDs in absentBackups. When it is reached, all IDs are forgotten.
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
