package backup

import (
	"context"
	"errors"
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/droverhq/drover/control/condition"
	"github.com/droverhq/drover/dataset"
)

const (
	// probePause is the time between two probes. A probe opens one repository, which takes restic about half a second
	// of CPU time. So the number of repositories does not change what probes cost this host.
	probePause = time.Minute
	// A repository is probed again openAge after it could be opened, and closedAge after it could not.
	openAge   = 10 * time.Minute
	closedAge = 2 * time.Minute
	// unusedAge is how long a failure is reported if no scheduled backup of this host uses the repository. Such a
	// repository is not probed, because this host may have no password for it.
	unusedAge = time.Hour
)

// accessTable has the last outcome of opening each repository. It is safe for concurrent use.
type accessTable struct {
	mu sync.Mutex
	of map[string]access // by name
}

// access is the last outcome of opening a repository.
type access struct {
	at      time.Duration // by the steady clock
	since   time.Time     // of the first failure after the last success
	problem error         // nil if the repository could be opened
}

// noteAccess notes that a repository was opened, or why it could not be opened.
func (c *Checker) noteAccess(name string, problem error) {
	if c.Clock == nil {
		return
	}
	c.access.mu.Lock()
	defer c.access.mu.Unlock()
	if c.access.of == nil {
		c.access.of = map[string]access{}
	}
	now := access{at: c.Clock.Steady(), problem: problem}
	if problem != nil {
		if now.since = c.access.of[name].since; now.since.IsZero() {
			now.since = c.Clock.Now()
		}
	}
	c.access.of[name] = now
}

// RunProbes opens the repositories of this host's scheduled backups from time to time, until ctx ends. It finds a
// repository that cannot be opened before a backup fails.
func (c *Checker) RunProbes(ctx context.Context) {
	for {
		select {
		case <-ctx.Done():
			return
		case <-c.Clock.After(probePause):
		}
		c.Probe(ctx)
	}
}

// Probe opens the repository whose last outcome is the oldest one, if that outcome is too old. It does not repeat what
// another run of restic has just found out.
func (c *Checker) Probe(ctx context.Context) {
	c.forgetRemoved(ctx)
	name := c.nextProbe()
	if name == "" {
		return
	}
	record, err := c.Records.Repository(ctx, name)
	if err == nil {
		if r, oerr := c.Restic(ctx, record); oerr == nil {
			_, _ = r.Stat(ctx) // Options.Ended gets the outcome
		}
	}
	c.access.mu.Lock()
	defer c.access.mu.Unlock()
	is := c.access.of[name]
	if errors.Is(err, dataset.ErrNotFound) { // control reports it
		is = access{}
	}
	is.at = c.Clock.Steady() // a run that says nothing must not delay the other repositories
	c.access.of[name] = is
}

// forgetRemoved forgets the failures of repositories that have no record any more.
func (c *Checker) forgetRemoved(ctx context.Context) {
	for _, name := range c.unopened() {
		if _, err := c.Records.Repository(ctx, name); errors.Is(err, dataset.ErrNotFound) {
			c.access.mu.Lock()
			delete(c.access.of, name)
			c.access.mu.Unlock()
		}
	}
}

// unopened returns the names of the repositories that could not be opened the last time, sorted.
func (c *Checker) unopened() (names []string) {
	c.access.mu.Lock()
	defer c.access.mu.Unlock()
	for _, name := range slices.Sorted(maps.Keys(c.access.of)) {
		if c.access.of[name].problem != nil {
			names = append(names, name)
		}
	}
	return names
}

// nextProbe returns the name of the repository that must be probed, or "". It forgets the repositories that no
// scheduled backup of this host uses, if their outcome is old.
func (c *Checker) nextProbe() (next string) {
	used := c.Users.UsedRepositories()
	c.access.mu.Lock()
	defer c.access.mu.Unlock()
	if c.access.of == nil {
		c.access.of = map[string]access{}
	}
	now := c.Clock.Steady()
	maps.DeleteFunc(c.access.of, func(name string, is access) bool {
		return now-is.at > unusedAge && !slices.Contains(used, name)
	})
	var longest time.Duration
	for _, name := range used {
		is, known := c.access.of[name]
		if !known {
			return name
		}
		age := openAge
		if is.problem != nil {
			age = closedAge
		}
		if late := now - is.at - age; late >= longest {
			next, longest = name, late
		}
	}
	return next
}

// Findings adds a warning for each repository that could not be opened the last time.
func (c *Checker) Findings(list *condition.List) {
	c.access.mu.Lock()
	defer c.access.mu.Unlock()
	for _, name := range slices.Sorted(maps.Keys(c.access.of)) {
		if is := c.access.of[name]; is.problem != nil {
			list.Add(condition.RepositoryUnreachable, "repository "+name,
				"correct the cause, then: drover repository check "+name,
				is.since.UTC().Format(time.DateTime), is.problem)
		}
	}
}
