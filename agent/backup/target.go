package backup

import (
	"context"
	"errors"
	"maps"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sync/semaphore"

	"github.com/droverhq/drover/agent/host"
	"github.com/droverhq/drover/control/condition"
	"github.com/droverhq/drover/dataset"
	"github.com/droverhq/drover/internal/restic"
)

// maxBackups is how many backups a host makes at a time to one repository. Each run of restic needs memory in
// proportion to the repository.
const maxBackups = 2

// removalTime bounds a removal of unwanted or expired backups. Meanwhile no backup uses its repository.
const removalTime = 2 * time.Minute

// A removal usually does not begin while a backup of its host runs. If backups always overlap, a removal of expired
// ones waits once in removalPatience, for at most removalWait. Backups that begin meanwhile wait for the removal.
const (
	removalPatience = 24 * time.Hour
	removalWait     = time.Hour
)

// removalPause is how long nothing is removed from a repository that did not answer: each attempt holds its backups.
const removalPause = 10 * time.Minute

// targets has what the backups to each repository share: a repository that does not answer must not delay the backups
// to another one. The zero value is ready to use, and safe for concurrent use.
type targets struct {
	mu sync.Mutex
	of map[string]*target // by name of the repository
}

// target is what the backups of this host to one repository share.
type target struct {
	busy host.Set // one for each dataset: a backup of it to the repository runs
	// A backup takes one of maxBackups slots, and a removal of unwanted or expired backups all of them: restic removes
	// backups only from a repository that nothing else uses.
	slots  *semaphore.Weighted
	paused time.Duration // the steady time until which nothing is removed; who has all slots may use it
	waited atomic.Int64  // the steady time of the last removal that took the slots, or waited for them
	// postponed has the operations whose expired backups must be removed.
	postponed postponedRemovals
	// refused is the URL of the repository if it refused to remove backups. Drover tries to remove no further ones
	// until the agent starts again. targets.mu guards it.
	refused string
	stay    atomic.Int64 // how many expired backups drover does not try to remove any more
}

func (t *targets) get(repository string) *target {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.of == nil {
		t.of = map[string]*target{}
	}
	if t.of[repository] == nil {
		t.of[repository] = &target{slots: semaphore.NewWeighted(maxBackups)}
	}
	return t.of[repository]
}

// removing calls remove, and limits its time. It does nothing if another removal runs, or if the repository did not
// answer an earlier one less than removalPause ago. If backups of this host use the repository, it also does nothing,
// unless wait is set and a removal may wait again: see removalPatience.
func (c *Creator) removing(ctx context.Context, t *target, wait bool, remove func(ctx context.Context) error) {
	if !t.slots.TryAcquire(maxBackups) && !(wait && c.waitForSlots(t)) {
		return
	}
	defer t.slots.Release(maxBackups)
	now := c.Clock.Steady()
	t.waited.Store(int64(now))
	if now < t.paused {
		return
	}
	limited, cancel := context.WithTimeout(ctx, removalTime)
	defer cancel()
	if err := remove(limited); err != nil && ctx.Err() == nil && (limited.Err() != nil || restic.IsUnreachable(err)) {
		t.paused = c.Clock.Steady() + removalPause
	}
}

// waitForSlots takes all slots. It fails if a removal has waited or run in the last removalPatience.
func (c *Creator) waitForSlots(t *target) bool {
	now, last := int64(c.Clock.Steady()), t.waited.Load()
	if now-last < int64(removalPatience) || !t.waited.CompareAndSwap(last, now) {
		return false
	}
	ctx, cancel := context.WithTimeout(c.Ctx, removalWait)
	defer cancel()
	return t.slots.Acquire(ctx, maxBackups) == nil
}

// hasRefused reports whether a repository refused to remove backups.
func (t *targets) hasRefused(url, name string) bool {
	to := t.get(name)
	t.mu.Lock()
	defer t.mu.Unlock()
	return to.refused == url
}

// refusedRemoval reports whether a repository refused to remove backups. If so, it notes that.
func (c *Creator) refusedRemoval(url, name string, err error) bool {
	if !errors.Is(err, restic.ErrAppendOnly) {
		return false
	}
	t := c.targets.get(name)
	c.targets.mu.Lock()
	defer c.targets.mu.Unlock()
	if t.refused != url {
		c.Log.WithError(named(name, err)).
			Warn("backups stay in their repository: no further attempt to remove any")
	}
	t.refused = url
	return true
}

// removeOnce removes unwanted backups from a repository, unless it has refused to remove backups before.
func (c *Creator) removeOnce(ctx context.Context, record dataset.Repository, u unwanted) error {
	repo, err := c.repositories.Restic(ctx, record)
	if err != nil {
		return err
	}
	if c.targets.hasRefused(repo.URL(), record.Name) {
		return restic.ErrAppendOnly
	}
	err = u.removeFrom(ctx, repo)
	c.refusedRemoval(repo.URL(), record.Name, err)
	return err
}

// report adds a warning for each repository that refused to remove backups, or in which expired ones stay.
func (t *targets) report(list *condition.List) {
	t.mu.Lock()
	defer t.mu.Unlock()
	for _, name := range slices.Sorted(maps.Keys(t.of)) {
		if t.of[name].refused != "" {
			list.Add(condition.RepositoryAppendOnly, "repository "+name, "")
		}
		if n := t.of[name].stay.Load(); n > 0 {
			list.Add(condition.ExpiredBackupsStay, "repository "+name, "", n)
		}
	}
}
