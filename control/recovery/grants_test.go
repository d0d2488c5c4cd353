package recovery_test

import (
	"slices"
	"strings"
	"testing"

	"github.com/droverhq/drover/control/api"
	"github.com/droverhq/drover/control/controltest"
	"github.com/droverhq/drover/dataset"
)

// restoredGrants restores the store to a time when grant ann existed, which was removed since. Grant bob existed all
// the time.
func restoredGrants(t *testing.T) *controltest.RestoredStore {
	t.Helper()
	m := controltest.NewRestoredStore(t, "alpha")
	ctx := m.Control.Ctx
	if _, err := m.AddRepository(ctx, api.NewRepository{
		Name: "team", URL: "/srv/team", Password: dataset.PasswordSource{File: "/etc/drover/team"},
	}); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"ann", "bob"} {
		g := api.NewGrant{Name: name, Repository: "team", SecretHash: strings.Repeat("0", 64)}
		if _, err := m.AddGrant(ctx, g); err != nil {
			t.Fatal(err)
		}
	}
	m.Saved = m.Save()
	if err := m.RemoveGrant(ctx, "ann"); err != nil {
		t.Fatal(err)
	}
	m.Agents["alpha"].MustCreate("since")
	back(m)
	return m
}

func grantNames(m *controltest.RestoredStore) (names []string) {
	m.Control.Helper()
	list, err := m.Grants(m.Control.Ctx)
	if err != nil {
		m.Control.Fatalf("%v", err)
	}
	for _, g := range list {
		names = append(names, g.Name)
	}
	return names
}

// A recovery removes the grants, because a restored store has grants that were removed since. It says so before. Until
// then, no grant is listed, so that no agent accepts one.
func TestRecoverRemovesGrants(t *testing.T) {
	m := restoredGrants(t)
	_, err := m.Grants(m.Control.Ctx)
	controltest.Refused(t, err, dataset.ErrConflict, "changes suspended", "drover store recover")
	r := m.MustRecover("alpha")
	if want := []string{"ann", "bob"}; !slices.Equal(r.RemovedGrants, want) {
		t.Errorf("the recovery removes %q, want %q", r.RemovedGrants, want)
	}
	if names := grantNames(m); len(names) > 0 {
		t.Errorf("the grants are %q", names)
	}
	removed := 0
	err = m.Events(m.Control.Ctx, 0, false, func(e api.Event) error {
		if e.Type == api.EventGrantRemove && strings.HasSuffix(e.Detail, ": the store was restored from a backup") {
			removed++
		}
		return nil
	})
	if err != nil || removed != 2 {
		t.Errorf("got %d events, %v", removed, err)
	}
}

// An operator can keep the grants. The digest says which of both is confirmed.
func TestRecoverKeepsGrants(t *testing.T) {
	m := restoredGrants(t)
	listed, err := m.RecoverWith(api.Recover{}, "alpha")
	if err != nil {
		t.Fatal(err)
	}
	_, err = m.RecoverWith(api.Recover{Digest: listed.Digest, KeepGrants: true}, "alpha")
	controltest.Refused(t, err, dataset.ErrConflict, "changed after the confirmation")
	kept, err := m.RecoverWith(api.Recover{KeepGrants: true}, "alpha")
	if err != nil || len(kept.RemovedGrants) > 0 {
		t.Fatalf("got %+v, %v", kept, err)
	}
	if kept, err = m.RecoverWith(api.Recover{Digest: kept.Digest, KeepGrants: true}, "alpha"); err != nil || !kept.Done {
		t.Fatalf("got %+v, %v", kept, err)
	}
	if names := grantNames(m); !slices.Equal(names, []string{"ann", "bob"}) {
		t.Errorf("the grants are %q", names)
	}
}
