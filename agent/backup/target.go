package backup

import (
	"context"
	"errors"
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/droverhq/drover/agent/host"
	"github.com/droverhq/drover/control/condition"
	"github.com/droverhq/drover/dataset"
	"github.com/droverhq/drover/internal/clock"
	"github.com/droverhq/drover/internal/restic"
)

// maxBackups is how many backups a host makes at a time to one repository. Each run of restic needs memory in
// proportion to the repository.
const maxBackups = 2

// removalTime bounds a removal of unwanted or expired backups. Meanwhile no backup uses its repository.
const removalTime = 2 * time.Minute

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
	busy  host.Set      // one for each dataset: a backup of it to the repository runs
	slots chan struct{} // has an element for each backup that runs
	// using is read-locked while a backup uses the repository, and locked while unwanted or expired backups are removed
	// from it: restic removes backups only from a repository that nothing else uses.
	using  sync.RWMutex
	paused time.Duration // the steady time until which nothing is removed; using guards it
	// postponed has the operations whose expired backups must be removed.
	postponed postponedRemovals
	// refused is the URL of the repository if it refused to remove backups. Drover tries to remove no further ones
	// until the agent starts again. targets.mu guards it.
	refused string
}

func (t *targets) get(repository string) *target {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.of == nil {
		t.of = map[string]*target{}
	}
	if t.of[repository] == nil {
		t.of[repository] = &target{slots: make(chan struct{}, maxBackups)}
	}
	return t.of[repository]
}

// removing calls remove, and limits its time. It does nothing if a backup of this host uses the repository, if another
// removal runs, or if the repository did not answer an earlier one less than removalPause ago.
func (t *target) removing(ctx context.Context, clock clock.Clock, remove func(ctx context.Context) error) {
	if !t.using.TryLock() {
		return
	}
	defer t.using.Unlock()
	if clock.Steady() < t.paused {
		return
	}
	limited, cancel := context.WithTimeout(ctx, removalTime)
	defer cancel()
	if err := remove(limited); err != nil && ctx.Err() == nil && (limited.Err() != nil || restic.IsUnreachable(err)) {
		t.paused = clock.Steady() + removalPause
	}
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

// report adds a warning for each repository that refused to remove backups.
func (t *targets) report(list *condition.List) {
	t.mu.Lock()
	defer t.mu.Unlock()
	for _, name := range slices.Sorted(maps.Keys(t.of)) {
		if t.of[name].refused != "" {
			list.Add(condition.RepositoryAppendOnly, "repository "+name, "")
		}
	}
}
