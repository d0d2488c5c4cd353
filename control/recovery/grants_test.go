package recovery_test

import (
	"slices"
	"strings"
	"testing"

	"github.com/droverhq/drover/control/api"
	"github.com/droverhq/drover/control/controltest"
	"github.com/droverhq/drover/control/record"
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

// addGrant creates a grant for repository team.
func addGrant(m *controltest.RestoredStore, name string) {
	m.Control.Helper()
	g := api.NewGrant{Name: name, Repository: "team", SecretHash: strings.Repeat("1", 64)}
	if _, err := m.AddGrant(m.Control.Ctx, g); err != nil {
		m.Control.Fatalf("%v", err)
	}
}

// recoveredWithoutBeta returns a restored store that was recovered while node beta was off. After that, grant eve was
// created, and beta has returned with a volume that no other node knew.
func recoveredWithoutBeta(t *testing.T) *controltest.RestoredStore {
	t.Helper()
	m := controltest.NewRestoredStore(t, "alpha", "beta")
	if _, err := m.AddRepository(m.Control.Ctx, api.NewRepository{
		Name: "team", URL: "/srv/team", Password: dataset.PasswordSource{File: "/etc/drover/team"},
	}); err != nil {
		t.Fatal(err)
	}
	addGrant(m, "ann")
	m.Saved = m.Save()
	m.Agents["beta"].MustCreate("since")
	back(m)
	if r := m.MustRecover("alpha"); !slices.Equal(r.RemovedGrants, []string{"ann"}) {
		t.Fatalf("the first recovery removes %q", r.RemovedGrants)
	}
	addGrant(m, "eve")
	m.Agents["beta"].MustRegister("beta")
	m.Agents["alpha"].MustRegister("alpha")
	m.Agents["beta"].ReportDistrust("it lacks volume since")
	return m
}

// A node that did not report to a recovery makes a second one necessary. The store was not restored again, so the
// grants that were created since stay. If the store may have been restored again, they are removed.
func TestSecondRecoverKeepsNewGrants(t *testing.T) {
	for name, c := range map[string]struct {
		before func(*controltest.RestoredStore)
		heard  []string
		want   []string // the grants that are removed
	}{
		"a node returns": {heard: []string{"alpha", "beta"}},
		"a recovery was not confirmed": {
			before: func(m *controltest.RestoredStore) {
				if _, err := m.RecoverWith(api.Recover{}, "alpha", "beta"); err != nil {
					m.Control.Fatalf("%v", err)
				}
			},
			heard: []string{"alpha", "beta"},
		},
		"a service saw a later state": {
			before: func(m *controltest.RestoredStore) {
				if err := m.Services[0].Ledger.HaltRestored(m.Control.Ctx, 2*controltest.SeenIndex); err != nil {
					m.Control.Fatalf("%v", err)
				}
			},
			heard: []string{"alpha", "beta"}, want: []string{"eve"},
		},
		"a node of the first recovery distrusts": {
			before: func(m *controltest.RestoredStore) { m.Agents["alpha"].ReportDistrust("it is older") },
			heard:  []string{"alpha", "beta"}, want: []string{"eve"},
		},
		"a node saw a later state": {
			before: func(m *controltest.RestoredStore) {
				h := m.Holdings["alpha"]
				h.StoreClock = 2 * controltest.SeenIndex
				m.Holdings["alpha"] = h
			},
			heard: []string{"alpha", "beta"}, want: []string{"eve"},
		},
		"a node is silent": {heard: []string{"beta"}, want: []string{"eve"}},
	} {
		t.Run(name, func(t *testing.T) {
			m := recoveredWithoutBeta(t)
			if c.before != nil {
				c.before(m)
			}
			r := m.MustRecover(c.heard...)
			if !slices.Equal(r.RemovedGrants, c.want) {
				t.Errorf("the second recovery removes %q, want %q", r.RemovedGrants, c.want)
			}
			want := []string{"eve"}
			if c.want != nil {
				want = nil
			}
			if names := grantNames(m); !slices.Equal(names, want) {
				t.Errorf("the grants are %q, want %q", names, want)
			}
			if m.MustVolume("since").Home != m.Agents["beta"].ID {
				t.Error("the volume of the node that returned is missing")
			}
		})
	}
}

// If the store is restored between the comparison and its confirmation, the recovery does not end with the grants.
func TestSecondRecoverDuringAnotherRestore(t *testing.T) {
	m := recoveredWithoutBeta(t)
	r, err := m.RecoverWith(api.Recover{}, "alpha", "beta")
	if err != nil || len(r.RemovedGrants) > 0 {
		t.Fatalf("got %+v, %v", r, err)
	}
	c, err := m.Service.Recovery.Compare(t.Context(), nil, false)
	if err != nil {
		t.Fatal(err)
	}
	if err := m.Services[0].Ledger.HaltRestored(m.Control.Ctx, 2*controltest.SeenIndex); err != nil {
		t.Fatal(err)
	}
	controltest.Refused(t, c.Correct(t.Context()), dataset.ErrConflict, "restored from a backup meanwhile")
	if !m.Halted() {
		t.Error("the store is not halted")
	}
}

// A recovery that cannot end removes no grant.
func TestRecoverThatCannotEndKeepsGrants(t *testing.T) {
	m := controltest.NewRestoredStore(t, "alpha", "beta")
	if _, err := m.AddRepository(m.Control.Ctx, api.NewRepository{
		Name: "team", URL: "/srv/team", Password: dataset.PasswordSource{File: "/etc/drover/team"},
	}); err != nil {
		t.Fatal(err)
	}
	addGrant(m, "ann")
	m.Saved = m.Save()
	back(m)
	if _, err := word(m, "beta", "alpha"); err != nil {
		t.Fatal(err)
	}
	c, err := m.Service.Recovery.Compare(t.Context(), []string{"beta"}, false)
	if err != nil || len(c.All) > 0 {
		t.Fatalf("%+v, %v", c, err)
	}
	m.Agents["beta"].MustRegister("beta")
	controltest.Refused(t, c.Correct(t.Context()), dataset.ErrConflict, "node beta", "alive")
	left, err := m.Store.List(t.Context(), record.GrantsPrefix, "", 0)
	if err != nil || len(left) != 1 {
		t.Errorf("%d grants are left, %v", len(left), err)
	}
}
