package backup

import (
	"context"
	"errors"
	"maps"
	"slices"
	"sync"

	"github.com/droverhq/drover/agent/findings"
	"github.com/droverhq/drover/dataset"
	"github.com/droverhq/drover/internal/restic"
)

// appendOnly remembers the repositories that refused to remove backups. Drover tries to remove no further backups from
// them until the agent starts again. It is safe for concurrent use.
type appendOnly struct {
	mu    sync.Mutex
	names map[string]string // the name of a repository, by URL
}

func (a *appendOnly) has(url string) bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.names[url] != ""
}

// refusedRemoval reports whether a repository refused to remove backups. If so, it notes that.
func (c *Creator) refusedRemoval(url, name string, err error) bool {
	if !errors.Is(err, restic.ErrAppendOnly) {
		return false
	}
	c.appendOnly.mu.Lock()
	defer c.appendOnly.mu.Unlock()
	if c.appendOnly.names == nil {
		c.appendOnly.names = map[string]string{}
	}
	if c.appendOnly.names[url] == "" {
		c.deps.Log.WithError(named(name, err)).
			Warn("backups stay in their repository: no further attempt to remove any")
	}
	c.appendOnly.names[url] = name
	return true
}

// removeOnce removes unwanted backups from a repository, unless it has refused to remove backups before.
func (c *Creator) removeOnce(ctx context.Context, record dataset.Repository, u unwanted) error {
	repo, err := c.deps.Open(ctx, record)
	if err != nil {
		return err
	}
	if c.appendOnly.has(repo.URL()) {
		return restic.ErrAppendOnly
	}
	err = u.removeFrom(ctx, repo)
	c.refusedRemoval(repo.URL(), record.Name, err)
	return err
}

// report adds a warning for each repository that refused to remove backups.
func (a *appendOnly) report(list *findings.List) {
	a.mu.Lock()
	defer a.mu.Unlock()
	for _, name := range slices.Sorted(maps.Values(a.names)) {
		list.Add(findings.Warning, "repository "+name,
			"remove old backups on its server, and use profiles without keep; then systemctl restart drover",
			"it is append-only: backups that are expired, incomplete or withdrawn stay in it, and drover does not try "+
				"to remove further ones")
	}
}
