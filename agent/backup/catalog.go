package backup

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/google/uuid"

	"github.com/droverhq/drover/control/api"
	"github.com/droverhq/drover/dataset"
	"github.com/droverhq/drover/internal/restic"
)

// Repositories opens the recorded repositories. Checker implements it.
type Repositories interface {
	// OpenNamed fails with dataset.ErrNotFound if no repository with the name is recorded.
	OpenNamed(ctx context.Context, name string) (*restic.Repository, error)
}

// Cluster knows the UUID of the cluster of this node. controlsync.Identity implements it.
type Cluster interface {
	// Cluster returns uuid.Nil before the node has reached control for the first time.
	Cluster() uuid.UUID
}

// Catalog lists and removes the backups of repositories. It lists what the repositories have: a backup that another
// node or another cluster made is listed, too. Its only state is what it has read of backups, which never changes. Its
// methods are safe for concurrent use.
type Catalog struct {
	repositories Repositories
	cluster      Cluster
	read         *facts
}

// NewCatalog returns a Catalog of a node of a cluster.
func NewCatalog(repositories Repositories, cluster Cluster) *Catalog {
	return &Catalog{repositories, cluster, &facts{}}
}

// NewRestorer returns a Restorer that shares what the Catalog has read of backups. mounts is the folder in which the
// agent mounts volumes. A restore hides it from restic, and shows only the new volume in it.
func (c *Catalog) NewRestorer(mounts string) *Restorer {
	return &Restorer{c.repositories, c.read, mounts}
}

// VolumeBackups returns the backups in a repository, oldest first: those of one volume or, if volume is empty, all.
// Backups that cannot be read are left out, and Problem of the list says so. If none can be read, VolumeBackups fails.
func (c *Catalog) VolumeBackups(ctx context.Context, repository, volume string) (api.BackupList, error) {
	r, err := c.repositories.OpenNamed(ctx, repository)
	if err != nil {
		return api.BackupList{}, err
	}
	tags := []string{TagDrover}
	if volume != "" {
		if err := dataset.CheckName(volume); err != nil {
			return api.BackupList{}, err
		}
		tags = append(tags, VolumeTag(volume))
	}
	list, err := r.Backups(ctx, tags...)
	if err != nil && len(list) == 0 {
		return api.BackupList{}, named(repository, err)
	}
	c.read.noteAll(r, list)
	isEntered, eerr := enteredBackups(ctx, r, list)
	out := api.BackupList{
		Items: []api.VolumeBackup{}, Problem: dataset.ProblemOf(named(repository, cmp.Or(err, eerr))),
	}
	for _, b := range list {
		if item, ok := c.describe(repository, b); ok {
			item.Incomplete = eerr == nil && !isEntered(b)
			out.Items = append(out.Items, item)
		}
	}
	slices.SortStableFunc(out.Items, func(x, y api.VolumeBackup) int { return x.Taken.Compare(y.Taken) })
	return out, nil
}

// VolumeBackup returns a backup with the record of its volume. It fails with dataset.ErrNotFound if the repository has
// no such backup, with dataset.ErrInvalid if Drover has not made it, with dataset.ErrUnsupported if a later version of
// Drover made it, and with dataset.ErrCorrupt if its record is damaged.
func (c *Catalog) VolumeBackup(ctx context.Context, repository, id string) (api.VolumeBackup, error) {
	r, err := c.repositories.OpenNamed(ctx, repository)
	if err != nil {
		return api.VolumeBackup{}, err
	}
	b, tags, err := c.read.readBackup(ctx, r, id, "see it with restic snapshots")
	var record Record
	if err == nil {
		record, err = c.read.readRecord(ctx, r, b, tags)
	}
	if err != nil {
		return api.VolumeBackup{}, named(repository, err)
	}
	isEntered, err := enteredBackups(ctx, r, []restic.Backup{b})
	if err != nil {
		return api.VolumeBackup{}, named(repository, err)
	}
	v, _ := c.describe(repository, b)
	v.Incomplete = !isEntered(b)
	v.Record = &api.BackupRecord{
		Revision: record.Profile.Revision, Size: record.Size, Labels: record.Labels, Encrypted: record.Encrypted,
		Filesystem: record.Filesystem, FilesystemGiven: record.FilesystemGiven, Node: record.Node,
		Drover: record.Drover,
	}
	return v, nil
}

// RemoveBackup removes a backup from a repository. Its data remain until PruneRepository is called. It fails with
// dataset.ErrNotFound if the repository has no such backup, and with dataset.ErrInvalid if Drover has not made it.
func (c *Catalog) RemoveBackup(ctx context.Context, repository, id string) error {
	r, err := c.repositories.OpenNamed(ctx, repository)
	if err != nil {
		return err
	}
	b, err := r.Get(ctx, id)
	if err != nil {
		return named(repository, err)
	}
	if _, ok := ParseTags(b.Tags); !ok {
		return dataset.Errorf(dataset.ErrInvalid, "repository %s: Drover has not made backup %s (remove it with "+
			"restic forget)", repository, short(b.ID))
	}
	return named(repository, r.Remove(ctx, b.ID))
}

// PruneRepository removes the data that no backup in a repository needs. It fails with dataset.ErrInUse if another run
// of restic uses the repository.
func (c *Catalog) PruneRepository(ctx context.Context, repository string) error {
	r, err := c.repositories.OpenNamed(ctx, repository)
	if err != nil {
		return err
	}
	return named(repository, r.Prune(ctx))
}

// describe returns a backup as its tags describe it. ok is false if Drover has not made it.
func (c *Catalog) describe(repository string, b restic.Backup) (v api.VolumeBackup, ok bool) {
	tags, ok := ParseTags(b.Tags)
	return api.VolumeBackup{
		ID: b.ID, Repository: repository, Taken: b.Time, Volume: tags.Volume, Dataset: tags.Dataset,
		Profile: tags.Profile, Snapshot: tags.Snapshot, Operation: tags.Operation,
		Cluster: tags.Cluster, Node: tags.Node, Elsewhere: tags.Cluster != c.cluster.Cluster(),
	}, ok
}

// enteredBackups returns a function that reports whether a backup in a list is not known to be incomplete: no push made
// it, or the push has written its entry. It reads the entries only if a push made one of the backups.
func enteredBackups(ctx context.Context, r *restic.Repository, list []restic.Backup) (
	isEntered func(restic.Backup) bool, err error) {
	isPushed := func(b restic.Backup) bool {
		tags, _ := ParseTags(b.Tags)
		return tags.Pushed != ""
	}
	entered := map[string]bool{}
	if slices.ContainsFunc(list, isPushed) {
		entries, err := r.Backups(ctx, TagEntry)
		if err != nil {
			return nil, err
		}
		for _, e := range entries {
			if v, ok, err := parseEntry(e); ok && err == nil {
				entered[v.Backup] = true
			}
		}
	}
	return func(b restic.Backup) bool { return !isPushed(b) || entered[b.ID] }, nil
}

// named adds the name of a repository to an error of package restic, which has only its URL.
func named(repository string, err error) error {
	if err == nil || errors.Is(err, context.Canceled) {
		return err
	}
	return fmt.Errorf("backups in %s: %w", repository, err)
}

// short returns the first digits of the ID of a backup, as restic prints them.
func short(id string) string { return id[:min(8, len(id))] }
