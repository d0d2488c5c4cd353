package repositories_test

import (
	"bytes"
	"encoding/json"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/droverhq/drover/control/api"
	"github.com/droverhq/drover/control/controltest"
	"github.com/droverhq/drover/control/record"
	"github.com/droverhq/drover/control/store"
	"github.com/droverhq/drover/control/store/dump"
	"github.com/droverhq/drover/dataset"
	"github.com/droverhq/drover/internal/pki"
)

func newRepository(name, url string) api.NewRepository {
	return api.NewRepository{Name: name, URL: url, Password: dataset.PasswordSource{File: "/etc/drover/" + name}}
}

func mustAdd(e *controltest.Control, n api.NewRepository) dataset.Repository {
	e.Helper()
	added, err := e.AddRepository(e.Ctx, n)
	if err != nil {
		e.Fatalf("%v", err)
	}
	return added
}

// A request for a recorded repository changes its limit of uploads. A request without a limit keeps it.
func TestUploadLimit(t *testing.T) {
	e := controltest.New(t)
	in := newRepository("offsite", "/srv/backups")
	limit := func(of *dataset.Size) dataset.Size {
		t.Helper()
		in.MaxUpload = of
		added := mustAdd(e, in)
		if got, err := e.Repository(e.Ctx, "offsite"); err != nil || cmp.Diff(added, got) != "" {
			t.Errorf("got %+v, %v, want %+v", got, err, added)
		}
		return added.MaxUpload
	}
	rate, none, small := 20*dataset.MiB, dataset.Size(0), dataset.KiB
	for i, step := range []struct {
		limit *dataset.Size
		want  dataset.Size
	}{{nil, 0}, {&rate, rate}, {nil, rate}, {&none, 0}} {
		if got := limit(step.limit); got != step.want {
			t.Errorf("step %d: got %s, want %s", i, got, step.want)
		}
	}
	in.MaxUpload = &small
	_, err := e.AddRepository(e.Ctx, in)
	controltest.Refused(t, err, dataset.ErrInvalid, "max-upload 1KiB is too small: expected 64KiB a second or more")
}

// A request for a recorded repository changes its limit of reads. Without a limit, the record has none of its own: the
// default applies. A limit of 0 is not the default.
func TestReadLimit(t *testing.T) {
	e := controltest.New(t)
	in := newRepository("offsite", "/srv/backups")
	rate, none, small := 20*dataset.MiB, dataset.Size(0), dataset.MiB
	for i, step := range []struct {
		set, want *dataset.Size
		limit     dataset.Size
	}{
		{nil, nil, dataset.DefaultMaxRead}, {&rate, &rate, rate}, {nil, &rate, rate}, {&none, &none, 0}, {nil, &none, 0},
	} {
		in.MaxRead = step.set
		added := mustAdd(e, in)
		got, err := e.Repository(e.Ctx, "offsite")
		if err != nil || cmp.Diff(added, got) != "" || cmp.Diff(got.MaxRead, step.want) != "" {
			t.Errorf("step %d: got %+v, %v, then %+v", i, added, err, got)
		}
		if got.ReadLimit() != step.limit {
			t.Errorf("step %d: the limit is %s, want %s", i, got.ReadLimit(), step.limit)
		}
	}
	in.MaxRead = &small
	_, err := e.AddRepository(e.Ctx, in)
	controltest.Refused(t, err, dataset.ErrInvalid, "max-read 1MiB is too small: expected 4MiB a second or more")
}

// A record without a limit of reads has no key for it, because 0 is no limit.
func TestReadLimitIsWrittenOnlyIfSet(t *testing.T) {
	none := dataset.Size(0)
	for text, limit := range map[string]*dataset.Size{"": nil, `"max_read":0`: &none} {
		b, err := json.Marshal(dataset.Repository{Name: "offsite", MaxRead: limit})
		if err != nil || strings.Contains(string(b), "max_read") != (limit != nil) || !strings.Contains(string(b), text) {
			t.Errorf("got %s, %v", b, err)
		}
	}
}

// A request for a recorded repository changes whether control stores its records there. A request without this setting
// keeps the recorded setting.
func TestStoreRecords(t *testing.T) {
	e := controltest.New(t)
	in := newRepository("offsite", "/srv/backups")
	yes, no := true, false
	for i, step := range []struct {
		set        *bool
		host, many bool // whether a single host and a cluster store the records
	}{{nil, true, false}, {&yes, true, true}, {nil, true, true}, {&no, false, false}, {nil, false, false}} {
		in.StoreRecords = step.set
		got := mustAdd(e, in)
		if got.StoresRecords(false) != step.host || got.StoresRecords(true) != step.many {
			t.Errorf("step %d: got %+v", i, got)
		}
	}
}

func TestAddRepository(t *testing.T) {
	e := controltest.New(t)
	ann := pki.Identity{Kind: pki.Operator, Name: "ann", Role: pki.Admin}
	ctx := api.WithPrincipal(e.Ctx, api.Principal{Identity: ann})
	in := newRepository("offsite", "file:///srv/backups/")
	want := dataset.Repository{
		Name: "offsite", URL: "/srv/backups", Password: in.Password, Created: controltest.Start, By: ann.String(),
	}
	got, err := e.AddRepository(ctx, in)
	if d := cmp.Diff(want, got); d != "" || err != nil {
		t.Fatalf("added: %v, -want +got:\n%s", err, d)
	}
	e.Clock.Advance(60e9)
	if again := mustAdd(e, in); cmp.Diff(want, again) != "" {
		t.Errorf("added again, got %+v, want the record of the first time", again)
	}
	if got, err := e.Repository(e.Ctx, "offsite"); err != nil || cmp.Diff(want, got) != "" {
		t.Errorf("got %+v, %v", got, err)
	}
	in.URL = "/srv/other"
	_, err = e.AddRepository(e.Ctx, in)
	controltest.Refused(t, err, dataset.ErrExists, "repository offsite exists, at /srv/backups", "use another name")
	in.URL = "rest:https://ann:hunter2@backup.example.com/a"
	_, err = e.AddRepository(e.Ctx, in)
	controltest.Refused(t, err, dataset.ErrInvalid, "must not contain a password")
	if got := eventsOf(e); !slices.Equal(got, []string{"repository.add offsite at /srv/backups"}) {
		t.Errorf("got the events %q, want one", got)
	}
}

func TestListAndRemoveRepositories(t *testing.T) {
	e := controltest.New(t)
	if list, err := e.Repositories(e.Ctx); err != nil || len(list) != 0 {
		t.Fatalf("got %v, %v, want none", list, err)
	}
	second := mustAdd(e, newRepository("offsite", "/srv/two"))
	first := mustAdd(e, newRepository("near", "/srv/one"))
	list, err := e.Repositories(e.Ctx)
	if d := cmp.Diff([]dataset.Repository{first, second}, list); d != "" || err != nil {
		t.Errorf("listed: %v, -want +got:\n%s", err, d)
	}
	controltest.Refused(t, e.RemoveRepository(e.Ctx, "ofsite", false), dataset.ErrNotFound,
		`no such repository: "ofsite" (available: near, offsite)`, "did you mean offsite?")
	controltest.Refused(t, e.RemoveRepository(e.Ctx, "a/b", false), dataset.ErrInvalid, "bad repository name")
	if err := e.RemoveRepository(e.Ctx, "near", false); err != nil {
		t.Fatal(err)
	}
	_, err = e.Repository(e.Ctx, "near")
	controltest.Refused(t, err, dataset.ErrNotFound, `no such repository: "near"`)
	if list, err := e.Repositories(e.Ctx); err != nil || len(list) != 1 || list[0].Name != "offsite" {
		t.Errorf("got %v, %v, want offsite", list, err)
	}
	if got := eventsOf(e); got[len(got)-1] != "repository.remove near at /srv/one" {
		t.Errorf("got the events %q", got)
	}
}

// Of two requests for one name with different places, one is recorded and the other refused.
func TestConcurrentAdds(t *testing.T) {
	e := controltest.New(t)
	var wg sync.WaitGroup
	errs := make([]error, 2)
	for i, url := range []string{"/srv/one", "/srv/two"} {
		wg.Go(func() { _, errs[i] = e.AddRepository(e.Ctx, newRepository("offsite", url)) })
	}
	wg.Wait()
	refused := slices.IndexFunc(errs, func(err error) bool { return err != nil })
	if refused < 0 || errs[1-refused] != nil {
		t.Fatalf("got the errors %v, want one", errs)
	}
	controltest.Refused(t, errs[refused], dataset.ErrExists, "repository offsite exists")
}

// A damaged record is reported as damaged, and never as absent.
func TestDamagedRepository(t *testing.T) {
	e := controltest.New(t)
	mustAdd(e, newRepository("offsite", "/srv/backups"))
	for _, value := range []string{`{"name":"another"}`, `{"name`} {
		write := store.Write{Key: record.RepositoryKey("offsite"), Value: []byte(value)}
		if _, err := e.Spy.Store.Txn(e.Ctx, nil, []store.Write{write}); err != nil {
			t.Fatal(err)
		}
		_, err := e.Repository(e.Ctx, "offsite")
		controltest.Refused(t, err, dataset.ErrCorrupt, "repositories/offsite is damaged")
		_, err = e.AddRepository(e.Ctx, newRepository("offsite", "/srv/other"))
		controltest.Refused(t, err, dataset.ErrCorrupt, "repositories/offsite is damaged")
	}
}

// A damaged record makes the list fail. It can be removed, and the list is complete again. A damaged record does not
// make the removal of a missing repository succeed.
func TestRemoveDamagedRepository(t *testing.T) {
	for _, value := range []string{`{"name":"another"}`, `{"name`} {
		e := controltest.New(t)
		mustAdd(e, newRepository("offsite", "/srv/backups"))
		near := mustAdd(e, newRepository("near", "/srv/near"))
		write := store.Write{Key: record.RepositoryKey("offsite"), Value: []byte(value)}
		if _, err := e.Spy.Store.Txn(e.Ctx, nil, []store.Write{write}); err != nil {
			t.Fatal(err)
		}
		_, err := e.Repositories(e.Ctx)
		controltest.Refused(t, err, dataset.ErrCorrupt, "repositories/offsite is damaged")
		controltest.Refused(t, e.RemoveRepository(e.Ctx, "missing", false), dataset.ErrCorrupt, "repositories/offsite is damaged")
		if err := e.RemoveRepository(e.Ctx, "offsite", false); err != nil {
			t.Fatalf("value %s: %v", value, err)
		}
		if list, err := e.Repositories(e.Ctx); err != nil || len(list) != 1 || cmp.Diff(near, list[0]) != "" {
			t.Errorf("value %s: got %v, %v, want only near", value, list, err)
		}
		if got := eventsOf(e); got[len(got)-1] != "repository.remove offsite" {
			t.Errorf("value %s: got the events %q", value, got)
		}
	}
}

// An export of the store contains the repositories, and an import restores them. A rebuild of volumes keeps them.
func TestRepositoriesSurviveExportAndRebuild(t *testing.T) {
	e := controltest.New(t)
	a := e.NewAgent("alpha")
	kept := a.MustCreate("db")
	added := mustAdd(e, newRepository("offsite", "/srv/backups"))
	var file bytes.Buffer
	if _, err := dump.Save(e.Ctx, e.Spy.Store, "bolt", &file); err != nil {
		t.Fatal(err)
	}
	found := []api.FoundDataset{{Pool: kept.Pool, Dataset: kept}}
	if _, err := e.Rebuild(e.Ctx, a.ID, found, false); err != nil {
		t.Fatal(err)
	}
	if got, err := e.Repository(e.Ctx, "offsite"); err != nil || cmp.Diff(added, got) != "" {
		t.Errorf("after a rebuild: got %+v, %v", got, err)
	}
	other := controltest.New(t)
	if _, err := dump.Load(e.Ctx, other.Spy.Store, bytes.NewReader(file.Bytes()), true); err != nil {
		t.Fatal(err)
	}
	if got, err := other.Repository(e.Ctx, "offsite"); err != nil || cmp.Diff(added, got) != "" {
		t.Errorf("after an import: got %+v, %v", got, err)
	}
}

// eventsOf returns the events about repositories.
func eventsOf(e *controltest.Control) (out []string) {
	e.Helper()
	err := e.Events(e.Ctx, 0, false, func(ev api.Event) error {
		if ev.Type == api.EventRepositoryAdd || ev.Type == api.EventRepositoryRemove {
			out = append(out, string(ev.Type)+" "+ev.Detail)
		}
		return nil
	})
	if err != nil {
		e.Fatalf("%v", err)
	}
	return out
}

// A repository that the profile of a volume names is removed only with force.
func TestRepositoryInUseIsNotRemoved(t *testing.T) {
	e := controltest.New(t)
	mustAdd(e, newRepository("offsite", "/srv/one"))
	p := e.ProfileSet.ByName["silver"]
	p.Name, p.Revision = "backed", "r1-backed"
	p.Backup = dataset.Backups{To: "offsite", Schedule: "@daily"}
	e.ProfileSet.ByName[p.Name] = p
	a := e.NewAgent("alpha")
	a.MustCreate("plain@silver")
	a.MustCreate("db@backed")
	controltest.Refused(t, e.RemoveRepository(e.Ctx, "offsite", false), dataset.ErrInUse,
		"repository offsite: 1 volume is backed up to it on schedule: db (")
	if err := e.RemoveRepository(e.Ctx, "offsite", true); err != nil {
		t.Fatal(err)
	}
	mustAdd(e, newRepository("offsite", "/srv/two"))
	d := a.MustDelete("db")
	controltest.Refused(t, e.RemoveRepository(e.Ctx, "offsite", false), dataset.ErrInUse,
		"repository offsite: volumes in the trash would be backed up to it once they are restored: db (")
	e.MustSubmit(api.Request{Kind: dataset.OpPurge, Volume: d.ID.String()})
	damage := func(value string) {
		t.Helper()
		write := store.Write{Key: record.DatasetKey(e.MustVolume("plain").ID), Value: []byte(value)}
		if _, err := e.Spy.Store.Txn(e.Ctx, nil, []store.Write{write}); err != nil {
			t.Fatal(err)
		}
	}
	damage(`{"id`)
	controltest.Refused(t, e.RemoveRepository(e.Ctx, "offsite", false), dataset.ErrCorrupt,
		"repository offsite: whether volumes are backed up to it is unknown: ", "is damaged", "or use --force")
	if err := e.RemoveRepository(e.Ctx, "offsite", true); err != nil {
		t.Errorf("with force: %v", err)
	}
}
