package repositories

import (
	"cmp"
	"context"
	"strings"

	"github.com/droverhq/drover/control/api"
	"github.com/droverhq/drover/control/record"
	"github.com/droverhq/drover/dataset"
)

// maxGrants limits how many grants are recorded, because one transaction removes those of a repository.
const maxGrants = 100

// Grants lists the grants by name. It fails with dataset.ErrConflict while the store is halted: a restored store can
// have grants that were removed since, and no agent may accept them.
func (r *Registry) Grants(ctx context.Context) ([]dataset.Grant, error) {
	t := record.NewTx(ctx, r.ledger.Store)
	var h record.Halt
	if is, err := t.Peek(record.HaltedKey, &h); err != nil || is {
		return nil, cmp.Or(err, h.Err())
	}
	return record.ListAll[dataset.Grant](t, record.GrantsPrefix)
}

// AddGrant records a grant. The secret is not known to control: the record has its SHA-256. If the same grant with the
// same secret is recorded already, nothing changes. AddGrant fails with dataset.ErrExists if the name belongs to
// another grant, with dataset.ErrNotFound if there is no such repository, and with dataset.ErrInvalid if the repository
// is not a directory or the request is invalid.
func (r *Registry) AddGrant(ctx context.Context, n api.NewGrant) (dataset.Grant, error) {
	wanted := n.Grant()
	if err := wanted.Check(); err != nil {
		return dataset.Grant{}, err
	}
	wanted.Created, wanted.By = r.ledger.Clock.Now(), api.PrincipalOf(ctx).String()
	if wanted.Expired(wanted.Created) {
		return dataset.Grant{}, dataset.Errorf(dataset.ErrInvalid, "grant %s: it would have expired already",
			wanted.Name)
	}
	var recorded dataset.Grant
	_, err := r.ledger.Update(ctx, func(t *record.Tx) error {
		recorded = dataset.Grant{}
		known, err := t.Get(record.GrantKey(wanted.Name), &recorded)
		if err != nil {
			return err
		}
		if same := wanted; known {
			same.Created, same.By = recorded.Created, recorded.By
			if same != recorded {
				return dataset.Errorf(dataset.ErrExists, "grant %s exists (use another name, or remove it first: "+
					"drover remote grant rm %[1]s --dry-run)", wanted.Name)
			}
			return nil
		}
		repo, err := record.GetRepository(t, wanted.Repository)
		if err != nil {
			return err
		}
		if !repo.IsDirectory() {
			return dataset.Errorf(dataset.ErrInvalid, "repository %s is at %s: only a repository in a directory can "+
				"be served to other clusters", repo.Name, repo.URL)
		}
		list, err := t.List(record.GrantsPrefix, "", maxGrants)
		if err == nil && len(list) >= maxGrants {
			err = dataset.Errorf(dataset.ErrInvalid, "there are %d grants, and no more are possible", len(list))
		}
		if err != nil {
			return err
		}
		recorded = wanted
		publishGrant(t, api.EventGrantAdd, wanted)
		return t.Put(record.GrantKey(wanted.Name), wanted)
	})
	if err != nil {
		return dataset.Grant{}, err
	}
	return recorded, nil
}

// RemoveGrant removes a grant, also if its record is damaged. It fails with dataset.ErrNotFound.
func (r *Registry) RemoveGrant(ctx context.Context, name string) error {
	if err := dataset.CheckGrantName(name); err != nil {
		return err
	}
	_, err := r.ledger.Update(ctx, func(t *record.Tx) error {
		key := record.GrantKey(name)
		var removed dataset.Grant
		known, err := t.Get(key, &removed)
		if dataset.KindOf(err) == dataset.ErrCorrupt {
			removed, known, err = dataset.Grant{Name: name}, true, nil
		}
		if err != nil {
			return err
		}
		if !known {
			return grantNotFound(t, name)
		}
		publishGrant(t, api.EventGrantRemove, removed)
		t.Delete(key)
		return nil
	})
	return err
}

func grantNotFound(t *record.Tx, name string) error {
	all, err := record.ListAll[dataset.Grant](t, record.GrantsPrefix)
	if err != nil {
		return err
	}
	names := make([]string, len(all))
	for i, g := range all {
		names[i] = g.Name
	}
	return dataset.Errorf(dataset.ErrNotFound, "no such grant: %q (available: %s)%s", name,
		dataset.FormatChoices(names), dataset.Suggestion(name, names))
}

// removeGrants removes the grants for a repository that is removed. A grant that stays would be listed, but allow
// nothing: see dataset.Grant.Allows. If the clock was set back, it would allow the use of a later repository with the
// same name. Without force, removeGrants fails with dataset.ErrInUse if there is a grant, and with dataset.ErrCorrupt
// if a damaged grant may be for the repository. With force, it also removes damaged grants of any repository.
func removeGrants(t *record.Tx, repository string, force bool) error {
	entries, err := t.List(record.GrantsPrefix, "", maxGrants+1)
	if err != nil {
		return err
	}
	var names []string
	for _, e := range entries {
		var g dataset.Grant
		err := record.Decode(e.Key, e.Value, &g)
		switch {
		case err != nil && !force:
			return dataset.Errorf(dataset.ErrCorrupt, "repository %s: whether it is granted to others is unknown: %w "+
				"(remove the grant, or use --force)", repository, err)
		case err == nil && g.Repository != repository:
		case force:
			if err != nil {
				g = dataset.Grant{Name: strings.TrimPrefix(e.Key, record.GrantsPrefix)}
			}
			publishGrant(t, api.EventGrantRemove, g)
			t.Delete(e.Key)
		default:
			names = append(names, g.Name)
		}
	}
	if len(names) > 0 {
		return dataset.Errorf(dataset.ErrInUse, "repository %s: other clusters may use it by the grants %s (remove "+
			"them first: drover remote grant rm; or use --force)", repository, dataset.FormatChoices(names))
	}
	return nil
}

// publishGrant publishes an event about a grant with the commit. The repository is empty if it is not known.
func publishGrant(t *record.Tx, typ api.EventType, g dataset.Grant) {
	detail := g.Name
	if g.Repository != "" {
		detail += " for repository " + g.Repository
	}
	t.Notice.Events = append(t.Notice.Events, api.Event{Type: typ, Detail: detail})
}
