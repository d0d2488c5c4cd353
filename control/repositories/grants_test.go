package repositories_test

import (
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/droverhq/drover/control/api"
	"github.com/droverhq/drover/control/controltest"
	"github.com/droverhq/drover/control/record"
	"github.com/droverhq/drover/control/store"
	"github.com/droverhq/drover/dataset"
)

func newGrant(name, repository string) api.NewGrant {
	return api.NewGrant{Name: name, Repository: repository, SecretHash: strings.Repeat("0", 64)}
}

func TestGrants(t *testing.T) {
	e := controltest.New(t)
	mustAdd(e, newRepository("team", "/srv/team"))
	in := newGrant("ann", "team")
	in.Push, in.Quota, in.Expires = true, dataset.GiB, controltest.Start.Add(time.Hour)
	want := in.Grant()
	want.Created = controltest.Start
	got, err := e.AddGrant(e.Ctx, in)
	want.By = got.By
	if d := cmp.Diff(want, got); d != "" || err != nil || got.By == "" {
		t.Fatalf("added: %v, by %q, -want +got:\n%s", err, got.By, d)
	}
	e.Clock.Advance(time.Minute)
	if again, err := e.AddGrant(e.Ctx, in); err != nil || cmp.Diff(want, again) != "" {
		t.Errorf("added again, got %+v, %v", again, err)
	}
	if list, err := e.Grants(e.Ctx); err != nil || cmp.Diff([]dataset.Grant{want}, list) != "" {
		t.Errorf("got %+v, %v", list, err)
	}
	other := in
	other.SecretHash = strings.Repeat("1", 64)
	_, err = e.AddGrant(e.Ctx, other)
	controltest.Refused(t, err, dataset.ErrExists, "grant ann exists")
	controltest.Refused(t, e.RemoveGrant(e.Ctx, "anm"), dataset.ErrNotFound, `no such grant: "anm"`, "did you mean ann?")
	if err := e.RemoveGrant(e.Ctx, "ann"); err != nil {
		t.Fatal(err)
	}
	if list, err := e.Grants(e.Ctx); err != nil || len(list) != 0 {
		t.Errorf("got %+v, %v", list, err)
	}
}

func TestBadGrants(t *testing.T) {
	e := controltest.New(t)
	mustAdd(e, newRepository("team", "/srv/team"))
	mustAdd(e, newRepository("bucket", "s3:https://s3.example.com/b"))
	for _, c := range []struct {
		change func(*api.NewGrant)
		kind   *dataset.Kind
		text   string
	}{
		{func(g *api.NewGrant) { g.Name = "a/b" }, dataset.ErrInvalid, "bad name of a grant"},
		{func(g *api.NewGrant) { g.Repository = "tean" }, dataset.ErrNotFound, "did you mean team?"},
		{func(g *api.NewGrant) { g.Repository = "bucket" }, dataset.ErrInvalid, "only a repository in a directory"},
		{func(g *api.NewGrant) { g.SecretHash = "secret" }, dataset.ErrInvalid, "expected 64 hexadecimal digits"},
		{func(g *api.NewGrant) { g.Quota = 1 }, dataset.ErrInvalid, "a quota applies only to"},
		{func(g *api.NewGrant) { g.Push, g.Quota = true, -1 }, dataset.ErrInvalid, "bad quota"},
		{func(g *api.NewGrant) { g.Expires = controltest.Start }, dataset.ErrInvalid, "it would have expired already"},
	} {
		in := newGrant("ann", "team")
		c.change(&in)
		_, err := e.AddGrant(e.Ctx, in)
		controltest.Refused(t, err, c.kind, c.text)
	}
	if list, err := e.Grants(e.Ctx); err != nil || len(list) != 0 {
		t.Errorf("got %+v, %v", list, err)
	}
}

// A repository with grants is removed only with force, and then together with its grants, which are in the events.
func TestRemoveRepositoryWithGrants(t *testing.T) {
	e := controltest.New(t)
	mustAdd(e, newRepository("team", "/srv/team"))
	mustAdd(e, newRepository("other", "/srv/other"))
	for _, g := range []api.NewGrant{newGrant("ann", "team"), newGrant("bob", "other")} {
		if _, err := e.AddGrant(e.Ctx, g); err != nil {
			t.Fatal(err)
		}
	}
	controltest.Refused(t, e.RemoveRepository(e.Ctx, "team", false), dataset.ErrInUse, "by the grants ann")
	if err := e.RemoveRepository(e.Ctx, "team", true); err != nil {
		t.Fatal(err)
	}
	want := []string{"grant.add ann for repository team", "grant.add bob for repository other",
		"grant.remove ann for repository team"}
	if got := grantEvents(e); !slices.Equal(got, want) {
		t.Errorf("got the events %q", got)
	}
	if list, err := e.Grants(e.Ctx); err != nil || len(list) != 1 || list[0].Name != "bob" {
		t.Errorf("got %+v, %v", list, err)
	}
}

// A damaged grant makes the list fail, so nobody is admitted by a part of the grants. It can be removed.
func TestDamagedGrant(t *testing.T) {
	e := controltest.New(t)
	mustAdd(e, newRepository("team", "/srv/team"))
	write := store.Write{Key: record.GrantKey("ann"), Value: []byte(`{"name":"bob"}`)}
	if _, err := e.Spy.Store.Txn(e.Ctx, nil, []store.Write{write}); err != nil {
		t.Fatal(err)
	}
	_, err := e.Grants(e.Ctx)
	controltest.Refused(t, err, dataset.ErrCorrupt, "grants/ann is damaged")
	controltest.Refused(t, e.RemoveRepository(e.Ctx, "team", false), dataset.ErrCorrupt, "grants/ann is damaged")
	if err := e.RemoveGrant(e.Ctx, "ann"); err != nil {
		t.Fatal(err)
	}
	if list, err := e.Grants(e.Ctx); err != nil || len(list) != 0 {
		t.Errorf("got %+v, %v", list, err)
	}
}

// A damaged grant is removed with any repository that is removed with force. Its event has only its name.
func TestRemoveRepositoryWithDamagedGrant(t *testing.T) {
	e := controltest.New(t)
	mustAdd(e, newRepository("team", "/srv/team"))
	write := store.Write{Key: record.GrantKey("ann"), Value: []byte(`{"`)}
	if _, err := e.Spy.Store.Txn(e.Ctx, nil, []store.Write{write}); err != nil {
		t.Fatal(err)
	}
	if err := e.RemoveRepository(e.Ctx, "team", true); err != nil {
		t.Fatal(err)
	}
	if list, err := e.Grants(e.Ctx); err != nil || len(list) != 0 {
		t.Errorf("got %+v, %v", list, err)
	}
	if got := grantEvents(e); !slices.Equal(got, []string{"grant.remove ann"}) {
		t.Errorf("got the events %q", got)
	}
}

// grantEvents returns the events about grants.
func grantEvents(e *controltest.Control) (out []string) {
	e.Helper()
	err := e.Events(e.Ctx, 0, false, func(ev api.Event) error {
		if ev.Type == api.EventGrantAdd || ev.Type == api.EventGrantRemove {
			out = append(out, string(ev.Type)+" "+ev.Detail)
		}
		return nil
	})
	if err != nil {
		e.Fatalf("%v", err)
	}
	return out
}

// A grant does not apply to a repository that was added under the name later.
func TestGrantIsForOneRepository(t *testing.T) {
	g := dataset.Grant{Repository: "team", Created: controltest.Start}
	r := dataset.Repository{Name: "team", URL: "/srv/team", Created: controltest.Start}
	for _, c := range []struct {
		change func()
		want   bool
	}{
		{func() {}, true},
		{func() { r.Created = r.Created.Add(time.Second) }, false},
		{func() { r.Created = controltest.Start.Add(-time.Hour) }, true},
		{func() { r.URL = "s3:https://s3.example.com/b" }, false},
		{func() { r.URL, r.Name = "/srv/team", "other" }, false},
	} {
		c.change()
		if got := g.Allows(r); got != c.want {
			t.Errorf("%+v: got %t", r, got)
		}
	}
}
