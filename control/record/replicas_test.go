package record_test

import (
	"context"
	"errors"
	"slices"
	"testing"
	"time"

	"github.com/google/uuid"

	"github.com/droverhq/drover/control"
	"github.com/droverhq/drover/control/api"
	"github.com/droverhq/drover/control/controltest"
	"github.com/droverhq/drover/control/planning"
	"github.com/droverhq/drover/control/store"
	"github.com/droverhq/drover/dataset"
	"github.com/droverhq/drover/internal/clock"
)

// newReplica returns a further service on the store, which uses the real clock.
func newReplica(t controltest.TB, st store.Store) *control.Service {
	return control.New(control.Deps{
		Store: st, StoreName: "bolt", Clock: clock.System{}, Version: "test", Shared: true,
		Profiles: func() planning.Profiles { return controltest.NewProfileSet() },
		Failed:   func(what string, err error) { t.Errorf("%s: %v", what, err) },
	})
}

// An agent that follows one replica learns of changes that go through another one. So do callers that wait for an
// operation or follow the events.
func TestReplicasHearOfEachOther(t *testing.T) {
	st := controltest.OpenStore(t)
	a, b := newReplica(t, st), newReplica(t, st)
	defer a.Close()
	defer b.Close()
	e := &controltest.Control{TB: t, Service: a, Ctx: t.Context()}
	n := e.NewAgent("n1")
	s, err := b.Sync(t.Context(), n.ID, 0, 0)
	if err != nil {
		t.Fatal(err)
	}
	// b may be about to read the existing changes when it starts, and then reports all of them once.
	for s.Full {
		d := n.MustCreate("v-" + uuid.NewString()[:8])
		e.MustSubmit(api.Request{Kind: dataset.OpSnapshot, Volume: d.Volume}) // its own create does not wake an agent
		for told := false; !told; {
			if s, err = b.Sync(t.Context(), n.ID, s.Revision, time.Minute); err != nil || s.Revision == 0 {
				t.Fatal(err)
			}
			told = slices.ContainsFunc(s.Datasets, func(x api.IndexedDataset) bool { return x.ID == d.ID })
		}
	}
	events := make(chan api.Event, 1)
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	done := make(chan error, 1)
	go func() {
		done <- b.Events(ctx, 0, true, func(ev api.Event) error {
			if ev.Volume == "db" {
				events <- ev
				return errors.New("seen")
			}
			return nil
		})
	}()
	op := e.MustSubmit(api.Request{Kind: dataset.OpCreate, Volume: "db"}).Operation
	if s, err = b.Sync(t.Context(), n.ID, s.Revision, time.Minute); err != nil || s.Full ||
		!slices.ContainsFunc(s.Operations, func(x dataset.Operation) bool { return x.ID == op.ID }) {
		t.Fatalf("%+v, %v", s, err)
	}
	waited := make(chan dataset.Operation, 1)
	go func() {
		got, err := b.Operation(t.Context(), op.ID.String(), time.Minute)
		if err != nil {
			t.Error(err)
		}
		waited <- got
	}()
	n.MustCommit(*op)
	if got := <-waited; got.State != dataset.OpDone {
		t.Errorf("%+v", got)
	}
	if ev := <-events; ev.Type != "volume.create" {
		t.Errorf("%+v", ev)
	}
	if err := <-done; err == nil {
		t.Error("events ended by themselves")
	}
}
