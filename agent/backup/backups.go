// Package backup makes backups of volumes in the recorded repositories (Creator), lists, shows, removes and prunes them
// (Catalog), and restores and verifies them (Restorer, CheckRunner). Checker opens and checks a repository. Backups has
// these components.
//
// A backup is a snapshot of restic. It contains a tree with the folder DataName, which has the content of the volume at
// one moment, and the file RecordName, which describes the volume (Record). The tags say which volume it is (Tags). The
// repository has the only list of the backups.
//
// A push is a backup, too. It also writes an entry, a second snapshot of restic without data, which makes the backup a
// version in the history of a name: see push.go for the order of the steps, and entry.go for the tags. To change what a
// repository says about a version, begin in entry.go; to change when a push is refused, in checkPush.
//
// restic reads a private clone of the volume, so that the volume can be written, moved and deleted meanwhile. The clone
// is mounted read-only in a mount namespace of that run of restic. A note on disk is written before the clone is made,
// and removed after the clone. Sweep removes the clones that a crash left, or that somebody holds.
//
// Creator has state on disk: the notes about clones, and files with the IDs of unwanted backups. A lock for each clone
// protects its note. In memory Creator has the expired backups that are known to be absent from their repository, and a
// target for each repository: see target.go. A target has the backups that run, and the operations whose expired
// backups could not be removed yet. A semaphore lets two backups run at the same time, but none while unwanted or
// expired backups are removed. The other tables in memory have a mutex each.
//
// Each start of restic takes about half a second of CPU time, so two tables save starts: memory, that of Creator, and
// facts, which Catalog, Creator and Restorer share. TestStartsOfRestic counts the starts of a backup and of a restore.
//
// Unwanted backups are those that are not the result of their operation: their removal is in unwanted.go. Expired
// backups are those that control does not retain: their removal is in expired.go. The order of the steps of a backup is
// in creator.go, and the clones are in scratch.go. File checkrunner.go isolates a check program from the rest of the
// host.
package backup

import (
	"path/filepath"
	"slices"
	"time"

	"github.com/droverhq/drover/agent/operation"
	"github.com/droverhq/drover/dataset"
	"github.com/droverhq/drover/internal/restic"
)

// Backups makes and reads the backups of a host. It implements operation.Backups.
type Backups struct {
	*Creator
	*Restorer
	*CheckRunner
	Repositories *Checker
	Catalog      *Catalog
}

var _ operation.Backups = (*Backups)(nil)

// New returns the Backups of a host of a cluster. version is that of this program. stall is how long restic may make no
// progress: see restic.Options.
func New(o *operation.Operations, cluster Cluster, version string, stall time.Duration) *Backups {
	caches := filepath.Join(o.Root, "restic-cache")
	restic.RemoveLeftCaches(caches)
	c := NewChecker(caches, o.Control, o.Keys.Programs)
	c.Clock, c.Log, c.StallLimit = o.Clock, o.Log, stall
	list := NewCatalog(c, cluster)
	b := &Backups{
		Creator: &Creator{
			Operations: o, repositories: c, version: version, cluster: cluster, facts: list.read,
		},
		Restorer: list.NewRestorer(o.MountRoot()), CheckRunner: &CheckRunner{o}, Repositories: c, Catalog: list,
	}
	c.Users = b
	return b
}

// UsedRepositories returns the names of the repositories that scheduled backups of this node's volumes use.
func (c *Creator) UsedRepositories() (names []string) {
	for _, id := range c.Cache.IDs() {
		d, ok := c.Cache.Dataset(id)
		if to := d.Profile.Backup.To; ok && to != "" && d.Home == c.NodeID && d.State == dataset.StateReady &&
			!slices.Contains(names, to) {
			names = append(names, to)
		}
	}
	return names
}
