package repositories_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"go.uber.org/goleak"

	"github.com/droverhq/drover/control/api"
	"github.com/droverhq/drover/control/controltest"
	"github.com/droverhq/drover/control/record"
	"github.com/droverhq/drover/control/repositories"
	"github.com/droverhq/drover/control/store"
	"github.com/droverhq/drover/control/store/dump"
	"github.com/droverhq/drover/dataset"
	"github.com/droverhq/drover/internal/pki"
	"github.com/droverhq/drover/test/assert"
	"github.com/droverhq/drover/test/require"
)

func newRepository(name, url string) api.NewRepository {
	return api.NewRepository{Name: name, URL: url, Password: dataset.PasswordSource{File: "/etc/drover/" + name}}
}

func mustAdd(e *controltest.Control, n api.NewRepository) dataset.Repository {
	e.Helper()
	added, err := e.AddRepository(e.Ctx, n)
	e.OK(err)
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
	e.OK(e.RemoveRepository(e.Ctx, "near", false))
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
		e.OK(e.Spy.Store.Txn(e.Ctx, nil, []store.Write{write}))
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
		e.OK(e.Spy.Store.Txn(e.Ctx, nil, []store.Write{write}))
		_, err := e.Repositories(e.Ctx)
		controltest.Refused(t, err, dataset.ErrCorrupt, "repositories/offsite is damaged")
		controltest.Refused(t, e.RemoveRepository(e.Ctx, "missing", false), dataset.ErrCorrupt, "repositories/offsite is damaged")
		require.NoErrorf(t, e.RemoveRepository(e.Ctx, "offsite", false), "value %s", value)
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
	e, a := controltest.OneNode(t)
	kept := a.MustCreate("db")
	added := mustAdd(e, newRepository("offsite", "/srv/backups"))
	var file bytes.Buffer
	e.OK(dump.Save(e.Ctx, e.Spy.Store, "bolt", &file))
	found := []api.FoundDataset{{Pool: kept.Pool, Dataset: kept}}
	e.OK(e.Rebuild(e.Ctx, a.ID, found, false))
	if got, err := e.Repository(e.Ctx, "offsite"); err != nil || cmp.Diff(added, got) != "" {
		t.Errorf("after a rebuild: got %+v, %v", got, err)
	}
	other := controltest.New(t)
	e.OK(dump.Load(e.Ctx, other.Spy.Store, bytes.NewReader(file.Bytes()), true))
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
	e.OK(err)
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
	e.OK(e.RemoveRepository(e.Ctx, "offsite", true))
	mustAdd(e, newRepository("offsite", "/srv/two"))
	d := a.MustDelete("db")
	controltest.Refused(t, e.RemoveRepository(e.Ctx, "offsite", false), dataset.ErrInUse,
		"repository offsite: volumes in the trash would be backed up to it once they are restored: db (")
	e.MustSubmit(api.Request{Kind: dataset.OpPurge, Volume: d.ID.String()})
	damage := func(value string) {
		t.Helper()
		write := store.Write{Key: record.DatasetKey(e.MustVolume("plain").ID), Value: []byte(value)}
		e.OK(e.Spy.Store.Txn(e.Ctx, nil, []store.Write{write}))
	}
	damage(`{"id`)
	controltest.Refused(t, e.RemoveRepository(e.Ctx, "offsite", false), dataset.ErrCorrupt,
		"repository offsite: whether volumes are backed up to it is unknown: ", "is damaged", "or use --force")
	assert.NoErrorf(t, e.RemoveRepository(e.Ctx, "offsite", true), "with force")
}

// shelf is repositories.Repositories. It keeps the last export of each repository.
type shelf struct {
	stored map[string]string
	count  int
	err    error
}

func (s *shelf) Store(_ context.Context, r dataset.Repository, e repositories.Export) error {
	if s.err != nil {
		return s.err
	}
	var b bytes.Buffer
	if err := e.Write(&b); err != nil {
		return err
	}
	s.stored[r.Name] = b.String()
	s.count++
	return nil
}

// world is a service with an Exporter.
type world struct {
	*controltest.Control
	*shelf
	x *repositories.Exporter
}

func newWorld(t *testing.T, shared bool) world {
	w := world{Control: controltest.New(t), shelf: &shelf{stored: map[string]string{}}}
	l := record.NewLedger(w.Spy, w.Clock, shared, func(what string, err error) { t.Errorf("%s: %v", what, err) })
	w.x = repositories.NewExporter(l, "bolt", w.shelf, active{})
	w.NewAgent("host-a")
	return w
}

type active struct{}

func (active) IsActive() bool { return true }

// round advances the clock, and returns how many exports a round stores.
func (w world) round(after time.Duration) int {
	w.Helper()
	w.Clock.Advance(after)
	before := w.count
	w.OK(w.x.Round(w.Ctx))
	w.CheckInvariants()
	return w.count - before
}

func add(w world, name string, records *bool) {
	w.Helper()
	_, err := w.AddRepository(w.Ctx, api.NewRepository{
		Name: name, URL: "/mnt/" + name, Password: dataset.PasswordSource{File: "/etc/drover/p"}, StoreRecords: records,
	})
	require.NoError(w, err)
}

// The records are stored an hour after the last export if they have changed, and once a day if they have not.
func TestExportsAreStoredWhenRecordsChange(t *testing.T) {
	w := newWorld(t, false)
	add(w, "offsite", nil)
	for i, step := range []struct {
		after  time.Duration
		change bool
		want   int
	}{
		{time.Minute, false, 0}, // a new repository may be checked now
		{10 * time.Minute, false, 1},
		{30 * time.Minute, true, 0},
		{29 * time.Minute, false, 0},
		{time.Minute, false, 1},
		{time.Hour, false, 0},
		{23 * time.Hour, false, 1},
	} {
		if step.change {
			no := false
			add(w, "other", &no)
		}
		if got := w.round(step.after); got != step.want {
			t.Errorf("step %d: %d exports were stored, want %d", i, got, step.want)
		}
	}
	sum, err := dump.Check(strings.NewReader(w.stored["offsite"]))
	if err != nil || !strings.Contains(w.stored["offsite"], `"repositories/other"`) {
		t.Errorf("stored %+v, %v", sum, err)
	}
	w.OK(w.RemoveRepository(w.Ctx, "offsite", false))
	add(w, "offsite", nil)
	if got := w.round(20 * time.Minute); got != 1 {
		t.Errorf("%d exports were stored in a repository that was added again", got)
	}
}

// What a clock that was ahead has recorded delays neither the next export nor the warning about failures.
func TestClockSetBack(t *testing.T) {
	w := newWorld(t, false)
	add(w, "offsite", nil)
	w.Clock.Advance(time.Hour)
	const ahead = 1000 * time.Hour
	for _, step := range []struct {
		after time.Duration
		err   error
		want  int
	}{
		{ahead, nil, 1}, {-ahead, nil, 1}, {time.Hour, nil, 0},
		{ahead, errors.New("a certificate has expired"), 0}, {-ahead, errors.New("it is full"), 0},
	} {
		w.err = step.err
		if got := w.round(step.after); got != step.want {
			t.Errorf("%+v: %d exports were stored", step, got)
		}
	}
	w.round(3 * time.Hour)
	got, err := w.x.Findings(w.Ctx)
	if err != nil || len(got) != 1 || !strings.HasSuffix(got[0].Text, "it is full") {
		t.Errorf("got %+v, %v", got, err)
	}
}

// A cluster stores its records only where an operator has chosen that.
func TestClusterStoresNothingByDefault(t *testing.T) {
	w := newWorld(t, true)
	yes, no := true, false
	add(w, "offsite", nil)
	if got := w.round(time.Hour); got != 0 {
		t.Errorf("%d exports were stored", got)
	}
	add(w, "offsite", &yes)
	add(w, "other", &no)
	if got := w.round(time.Minute); got != 1 || w.stored["offsite"] == "" {
		t.Errorf("%d exports were stored", got)
	}
	add(w, "offsite", &no)
	if got := w.round(48 * time.Hour); got != 0 {
		t.Errorf("%d exports were stored after the setting was removed", got)
	}
}

// If a good export cannot be recorded, the earlier failure is shown for ten minutes at most, not for an hour.
func TestExportThatCannotBeRecorded(t *testing.T) {
	w := newWorld(t, false)
	add(w, "offsite", nil)
	w.err = errors.New("the password is wrong")
	w.round(time.Hour)
	w.round(3 * time.Hour)
	w.err = nil
	w.Clock.Advance(time.Hour)
	w.Spy.Before(func() { w.Spy.FailFrom(1, false) })
	if err := w.x.Round(w.Ctx); err == nil {
		t.Fatal("the outcome was recorded")
	}
	w.Spy.FailFrom(0, false)
	if got := w.round(time.Minute); got != 0 {
		t.Errorf("%d exports were stored before the next attempt was due", got)
	}
	got := w.round(9 * time.Minute)
	list, err := w.x.Findings(w.Ctx)
	if got != 1 || err != nil || len(list) != 0 {
		t.Errorf("%d exports were stored, and %+v is reported: %v", got, list, err)
	}
}

// A failure is tried again after ten minutes, and reported after two hours, until an export is stored.
func TestFailingExportsAreReported(t *testing.T) {
	w := newWorld(t, false)
	add(w, "offsite", nil)
	w.round(time.Hour)
	findings := func() []api.Finding {
		t.Helper()
		list, err := w.x.Findings(w.Ctx)
		require.NoError(t, err)
		return list
	}
	w.err = errors.New("the password is wrong")
	w.round(24 * time.Hour)
	w.round(119 * time.Minute)
	if got := findings(); len(got) != 0 {
		t.Errorf("reported early: %+v", got)
	}
	w.round(2 * time.Minute)
	got := findings()
	if len(got) != 1 || got[0].Subject != "repository offsite" || !strings.HasSuffix(got[0].Text, "the last attempt failed because the password is wrong") {
		t.Errorf("got %+v", got)
	}
	w.err = nil
	if got := w.round(time.Minute); got != 0 {
		t.Errorf("%d exports were stored before the next attempt was due", got)
	}
	if got := w.round(9 * time.Minute); got != 1 || len(findings()) != 0 {
		t.Errorf("%d exports were stored, and %+v is reported", got, findings())
	}
}

// A damaged record of a repository is an error. The records are stored in the other repositories nevertheless, and the
// state of these is known.
func TestDamagedRepositoryDoesNotPreventTheOthers(t *testing.T) {
	w := newWorld(t, false)
	for _, name := range []string{"alpha", "beta", "gamma"} {
		add(w, name, nil)
	}
	damaged := store.Write{Key: record.RepositoryKey("beta"), Value: []byte(`{"`)}
	w.OK(w.Spy.Store.Txn(w.Ctx, nil, []store.Write{damaged}))
	w.Clock.Advance(time.Hour)
	err := w.x.Round(w.Ctx)
	if dataset.KindOf(err) != dataset.ErrCorrupt || !strings.Contains(err.Error(), damaged.Key) {
		t.Errorf("the round: %v", err)
	}
	if w.stored["alpha"] == "" || w.stored["gamma"] == "" || w.count != 2 {
		t.Errorf("%d exports were stored", w.count)
	}
	w.err = errors.New("the password is wrong")
	for range 2 {
		w.Clock.Advance(25 * time.Hour)
		_ = w.x.Round(w.Ctx)
	}
	list, err := w.x.Findings(w.Ctx)
	if len(list) != 2 || err == nil || !strings.Contains(err.Error(), damaged.Key) {
		t.Errorf("%+v is reported: %v", list, err)
	}
}

// Records that nobody tries to store are reported, too.
func TestMissingExportsAreReported(t *testing.T) {
	w := newWorld(t, false)
	add(w, "offsite", nil)
	w.round(time.Hour)
	for _, step := range []struct {
		after time.Duration
		want  int
	}{{25 * time.Hour, 0}, {2 * time.Hour, 1}} {
		w.Clock.Advance(step.after)
		got, err := w.x.Findings(w.Ctx)
		if err != nil || len(got) != step.want {
			t.Errorf("after %s: got %+v, %v, want %d findings", step.after, got, err, step.want)
		}
	}
	if got := w.round(0); got != 1 {
		t.Errorf("%d exports were stored", got)
	}
	if got, err := w.x.Findings(w.Ctx); err != nil || len(got) != 0 {
		t.Errorf("got %+v, %v after an export", got, err)
	}
}

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }
