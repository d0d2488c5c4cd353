package repositories_test

import (
	"bytes"
	"context"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/droverhq/drover/control/api"
	"github.com/droverhq/drover/control/controltest"
	"github.com/droverhq/drover/control/record"
	"github.com/droverhq/drover/control/repositories"
	"github.com/droverhq/drover/control/store"
	"github.com/droverhq/drover/control/store/dump"
	"github.com/droverhq/drover/dataset"
)

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
	if err := w.x.Round(w.Ctx); err != nil {
		w.Fatalf("%v", err)
	}
	w.CheckInvariants()
	return w.count - before
}

func add(w world, name string, records *bool) {
	w.Helper()
	_, err := w.AddRepository(w.Ctx, api.NewRepository{
		Name: name, URL: "/mnt/" + name, Password: dataset.PasswordSource{File: "/etc/drover/p"}, StoreRecords: records,
	})
	if err != nil {
		w.Fatalf("%v", err)
	}
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
	if err := w.RemoveRepository(w.Ctx, "offsite", false); err != nil {
		t.Fatal(err)
	}
	add(w, "offsite", nil)
	if got := w.round(20 * time.Minute); got != 1 {
		t.Errorf("%d exports were stored in a repository that was added again", got)
	}
}

// An export is recorded by a clock that is ahead. After the clock has been set back, the next change is exported at the
// usual interval, and not only when the clock reaches the recorded time.
func TestClockSetBack(t *testing.T) {
	w := newWorld(t, false)
	add(w, "offsite", nil)
	w.Clock.Advance(time.Hour)
	const ahead = 1000 * time.Hour
	if got := w.round(ahead); got != 1 {
		t.Fatalf("%d exports were stored while the clock was ahead", got)
	}
	no := false
	add(w, "other", &no)
	if got := w.round(-ahead); got != 1 {
		t.Errorf("%d exports were stored after the clock was set back, want 1", got)
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
		if err != nil {
			t.Fatal(err)
		}
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
	if _, err := w.Spy.Store.Txn(w.Ctx, nil, []store.Write{damaged}); err != nil {
		t.Fatal(err)
	}
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
