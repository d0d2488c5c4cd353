package backup

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"sync"

	"github.com/google/uuid"

	"github.com/droverhq/drover/control/api"
	"github.com/droverhq/drover/dataset"
	"github.com/droverhq/drover/internal/restic"
)

// removedAtOnce is how many expired backups one run of restic removes at most.
const removedAtOnce = 100

// dueRemoval has control's answer about the expired backups of an operation's dataset.
type dueRemoval struct {
	op dataset.Operation
	api.Committed
}

// removeExpired removes the expired backups of an operation's dataset: those that retention does not keep. answer is
// control's answer to the report of the operation, and names them. The list is never stored, because a later change of
// the profile or a restore can make it wrong: removePostponed asks for it again. If a backup cannot be removed then,
// control names it again after the next backup of the dataset. The backup that the operation has made is never removed.
func (c *Creator) removeExpired(ctx context.Context, op dataset.Operation, answer api.Committed) {
	due := len(c.stillThere(op, answer.Expired)) > 0
	if due {
		c.targets.get(op.Repository).postponed.add(op)
	}
	c.removeUnwanted(ctx, op.Repository, due)
}

// stillThere returns those of some expired backups that may be in their repository.
func (c *Creator) stillThere(op dataset.Operation, expired []api.ExpiredBackup) []api.ExpiredBackup {
	return slices.DeleteFunc(slices.Clone(expired), func(e api.ExpiredBackup) bool {
		return e.ID == op.Backup || e.Operation == op.ID || c.absent.has(e.ID)
	})
}

// removePostponed removes the expired backups in a repository, and returns the errors of the repository. It asks
// control which ones they are now, with the report of the same backup.
func (c *Creator) removePostponed(ctx context.Context, repository string) error {
	var due []dueRemoval
	for _, op := range c.targets.get(repository).postponed.take() {
		answer, err := c.Runner.Report(ctx, &op, nil)
		if err != nil {
			c.logOf(ctx, op).WithError(err).Warn(cannotRemoveExpired)
			continue
		}
		if answer.Expired = c.stillThere(op, answer.Expired); len(answer.Expired) > 0 {
			due = append(due, dueRemoval{op, answer})
		}
	}
	if len(due) == 0 {
		return nil
	}
	return c.removeDue(ctx, repository, due...)
}

const cannotRemoveExpired = "cannot remove expired backups: trying again after the next backup of the volume"

// removeDue removes the expired backups of some datasets from a repository, and returns all errors. removing calls it.
func (c *Creator) removeDue(ctx context.Context, repository string, due ...dueRemoval) error {
	repo, err := c.openRecorded(ctx, repository)
	failed := map[string]error{} // by ID of the backup
	if repo != nil && c.targets.hasRefused(repo.URL(), repository) {
		return nil
	}
	if err == nil && repo != nil {
		var list []restic.Backup
		// The list has the backups that can be read, whatever else a repository has.
		if list, err = c.listDue(ctx, repo, due); err == nil || errors.Is(err, dataset.ErrCorrupt) {
			c.removeAll(ctx, repo, c.chooseDue(list, due, err == nil), failed)
		}
	}
	removal := errors.Join(slices.Collect(maps.Values(failed))...)
	if repo != nil && c.refusedRemoval(repo.URL(), repository, removal) {
		return nil
	}
	for _, d := range due {
		all := []error{err}
		for _, e := range d.Expired {
			all = append(all, failed[e.ID])
			if e.Final && repo != nil && !c.absent.has(e.ID) {
				c.targets.get(repository).stay.Add(1)
				c.logOf(ctx, d.op).WithField("backup", e.ID).WithField("repository", repository).
					Warn("an expired backup stays in its repository: no further attempt to remove it " +
						"(drover backup ls)")
			}
		}
		if err := errors.Join(all...); err != nil {
			c.logOf(ctx, d.op).WithError(named(repository, err)).Warn(cannotRemoveExpired)
		}
	}
	return errors.Join(err, removal)
}

// listDue lists the backups of some datasets, and can list more. If some are damaged, it lists the others, and fails
// with dataset.ErrCorrupt.
func (c *Creator) listDue(ctx context.Context, repo *restic.Repository, due []dueRemoval) ([]restic.Backup, error) {
	tags := []string{TagDrover}
	if len(due) == 1 {
		tags = append(tags, DatasetTag(due[0].op.DatasetID))
	}
	return repo.Backups(ctx, tags...)
}

// chooseDue returns the IDs of the expired backups that must be removed from a repository with the backups in list. It
// chooses only backups that the named operations made of the dataset: the repository can be shared with other clusters.
// An operation that was interrupted and repeated made several. It keeps those that are being read. For each retained
// one that list lacks, it keeps one more of the newest expired ones. all is whether list has all backups in the
// repository.
func (c *Creator) chooseDue(list []restic.Backup, due []dueRemoval, all bool) (chosen []string) {
	type origin struct{ dataset, operation uuid.UUID }
	there, made := make(map[string]bool, len(list)), map[origin][]string{}
	for _, b := range list {
		there[b.ID] = true
		if tags, ok := ParseTags(b.Tags); ok {
			from := origin{tags.Dataset, tags.Operation}
			made[from] = append(made[from], b.ID)
		}
	}
	for _, d := range due {
		var ids, absent []string
		for _, e := range d.Expired {
			of := made[origin{d.op.DatasetID, e.Operation}]
			if all && !slices.Contains(of, e.ID) {
				absent = append(absent, e.ID)
			}
			for _, id := range of {
				if !slices.Contains(d.Reading, id) {
					ids = append(ids, id)
				}
			}
		}
		c.absent.add(absent...)
		// A retained backup that somebody removed by hand, or that the repository has lost, protects nothing.
		missing := 0
		for _, id := range d.Retained {
			if !there[id] {
				missing++
			}
		}
		chosen = append(chosen, ids[:max(0, len(ids)-missing)]...) // the newest ones are the last
	}
	return chosen
}

// removeAll removes backups from a repository. If one of them cannot be removed, it removes the others, and adds the
// error to failed.
func (c *Creator) removeAll(ctx context.Context, repo *restic.Repository, ids []string, failed map[string]error) {
	for chunk := range slices.Chunk(ids, removedAtOnce) {
		err := repo.Remove(ctx, chunk...)
		switch {
		case err == nil:
			c.absent.add(chunk...)
		case len(chunk) == 1, ctx.Err() != nil, errors.Is(err, dataset.ErrInUse), errors.Is(err, restic.ErrAppendOnly):
			// This applies to all of them.
			for _, id := range chunk {
				failed[id] = fmt.Errorf("backup %s: %w", short(id), err)
			}
		default:
			c.removeAll(ctx, repo, chunk[:len(chunk)/2], failed)
			c.removeAll(ctx, repo, chunk[len(chunk)/2:], failed)
		}
	}
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
