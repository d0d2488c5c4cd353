// Package repositories keeps the records of the repositories for backups, and stores exports of the records of control
// in them, so that the records survive the loss of the store and of all hosts.
//
// Control neither reads nor writes backups of volumes: a node does, with a password and credentials that only the node
// can read. A record names their files. The daemon implements Repositories, which opens a repository for an export.
//
// The repositories are in the store under repositories/<name>, and the outcome of their exports under exports/<name>.
// In memory, Exporter has the times at which the repositories are due again, which only the goroutine of Run uses, and
// an atomic flag that says whether this service stores the exports: only one service of a cluster does.
//
// A rule for the set of repositories, such as their maximum number, belongs in registry.go, and a rule for the URL or
// the password of one in package dataset. When an export is due, and what is reported of it, is in exporter.go. Package
// dump defines the format of an export.
package repositories

import (
	"cmp"
	"context"

	"github.com/droverhq/drover/control/api"
	"github.com/droverhq/drover/control/record"
	"github.com/droverhq/drover/dataset"
)

// maxRepositories limits how many repositories are recorded, because they are listed as a whole.
const maxRepositories = 1000

// Registry adds, lists and removes the records of repositories. Safe for concurrent use.
type Registry struct{ ledger *record.Ledger }

// New returns a Registry on the store of a ledger.
func New(l *record.Ledger) *Registry { return &Registry{l} }

// Repositories lists the repositories by name.
func (r *Registry) Repositories(ctx context.Context) ([]dataset.Repository, error) {
	return record.ListAll[dataset.Repository](record.NewTx(ctx, r.ledger.Store), record.RepositoriesPrefix)
}

// Repository returns a repository. It fails with dataset.ErrNotFound.
func (r *Registry) Repository(ctx context.Context, name string) (dataset.Repository, error) {
	return record.GetRepository(record.NewTx(ctx, r.ledger.Store), name)
}

// AddRepository records a repository. If the same repository is recorded already, only the settings change that the
// request names: the upload limit, and whether control stores its records there. AddRepository fails with
// dataset.ErrExists if the name belongs to another repository, and with ErrInvalid for an invalid request or too many
// repositories. Idempotent.
func (r *Registry) AddRepository(ctx context.Context, n api.NewRepository) (dataset.Repository, error) {
	wanted, err := n.Repository().Checked()
	if err != nil {
		return dataset.Repository{}, err
	}
	wanted.Created, wanted.By = r.ledger.Clock.Now(), api.PrincipalOf(ctx).String()
	var recorded dataset.Repository
	_, err = r.ledger.Update(ctx, func(t *record.Tx) error {
		recorded = dataset.Repository{}
		known, err := t.Get(record.RepositoryKey(wanted.Name), &recorded)
		switch {
		case err != nil:
			return err
		case known && recorded.SamePlace(wanted):
			if !change(&recorded, n) {
				return nil
			}
			return t.Put(record.RepositoryKey(wanted.Name), recorded)
		case known:
			return dataset.Errorf(dataset.ErrExists,
				"repository %s exists, at %s, with another URL, password or credentials (use another name)",
				wanted.Name, recorded.URL)
		}
		if err := checkRoom(t); err != nil {
			return err
		}
		recorded = wanted
		publish(t, api.EventRepositoryAdd, wanted)
		return t.Put(record.RepositoryKey(wanted.Name), wanted)
	})
	if err != nil {
		return dataset.Repository{}, err
	}
	return recorded, nil
}

// change applies the settings of a request to the record of the same repository. It reports whether one has changed.
func change(recorded *dataset.Repository, n api.NewRepository) (changed bool) {
	if n.MaxUpload != nil && *n.MaxUpload != recorded.MaxUpload {
		recorded.MaxUpload, changed = *n.MaxUpload, true
	}
	if m := recorded.MaxRead; n.MaxRead != nil && (m == nil || *m != *n.MaxRead) {
		recorded.MaxRead, changed = n.MaxRead, true
	}
	if s := recorded.StoreRecords; n.StoreRecords != nil && (s == nil || *s != *n.StoreRecords) {
		recorded.StoreRecords, changed = n.StoreRecords, true
	}
	return changed
}

// RemoveRepository removes the record of a repository, also if the record is damaged. It fails with
// dataset.ErrNotFound. Without force, it fails with dataset.ErrInUse if the profile of a volume names the repository,
// and with dataset.ErrCorrupt if a damaged record may name it.
func (r *Registry) RemoveRepository(ctx context.Context, name string, force bool) error {
	_, err := r.ledger.Update(ctx, func(t *record.Tx) error {
		key := record.RepositoryKey(name)
		removed, err := record.GetRepository(t, name)
		if dataset.KindOf(err) == dataset.ErrCorrupt && t.Entry(key).Index != 0 { // this record is damaged
			removed, err = dataset.Repository{Name: name}, nil
		}
		if err != nil {
			return err
		}
		if !force {
			if err := checkUnused(t, name); err != nil {
				return err
			}
		}
		publish(t, api.EventRepositoryRemove, removed)
		t.Delete(key)
		t.Delete(record.ExportKey(name))
		return nil
	})
	return err
}

// checkUnused fails with dataset.ErrInUse if the profile of a volume schedules backups to a repository. A volume in the
// trash counts: it is backed up again once it is restored. checkUnused fails with dataset.ErrCorrupt if a damaged
// record of a dataset may name the repository. A volume that is created at the same time can be missed: housekeeping
// reports it.
func checkUnused(t *record.Tx, name string) error {
	var live, trashed []string
	var damaged error
	for e, err := range record.Entries(t, record.DatasetsPrefix, api.MaxPage) {
		if err != nil {
			return err
		}
		var d dataset.Dataset
		switch err := record.Decode(e.Key, e.Value, &d); {
		case err != nil:
			damaged = cmp.Or(damaged, err)
		case d.Profile.Backup.To != name:
		case d.State == dataset.StateReady:
			live = append(live, d.Volume)
		case d.State == dataset.StateTrashed:
			trashed = append(trashed, d.Volume)
		}
	}
	switch {
	case len(live) == 1:
		return dataset.Errorf(dataset.ErrInUse, "repository %s: 1 volume is backed up to it on schedule: %s (give it "+
			"another profile: drover volume set-profile)", name, live[0])
	case len(live) > 1:
		return dataset.Errorf(dataset.ErrInUse, "repository %s: %d volumes are backed up to it on schedule: %s (give "+
			"them another profile: drover volume set-profile)", name, len(live), dataset.FormatChoices(live))
	case len(trashed) > 0:
		return dataset.Errorf(dataset.ErrInUse, "repository %s: volumes in the trash would be backed up to it once "+
			"they are restored: %s (drover trash ls; or use --force)", name, dataset.FormatChoices(trashed))
	case damaged != nil:
		return dataset.Errorf(dataset.ErrCorrupt, "repository %s: whether volumes are backed up to it is unknown: %w "+
			"(repair the record, or use --force)", name, damaged)
	}
	return nil
}

// checkRoom fails with dataset.ErrInvalid if there are too many repositories for another one. Concurrent requests can
// exceed the limit slightly, which does no harm.
func checkRoom(t *record.Tx) error {
	list, err := t.List(record.RepositoriesPrefix, "", maxRepositories)
	if err == nil && len(list) >= maxRepositories {
		err = dataset.Errorf(dataset.ErrInvalid, "there are %d repositories, and no more are possible", len(list))
	}
	return err
}

// publish publishes an event about a repository with the commit. The URL is empty if it is not known.
func publish(t *record.Tx, typ api.EventType, repo dataset.Repository) {
	detail := repo.Name
	if repo.URL != "" {
		detail += " at " + repo.URL
	}
	t.Notice.Events = append(t.Notice.Events, api.Event{Type: typ, Detail: detail})
}
