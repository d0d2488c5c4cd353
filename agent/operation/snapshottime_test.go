package operation_test

import (
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/google/uuid"

	"github.com/droverhq/drover/agent/agenttest"
	"github.com/droverhq/drover/agent/host"
	"github.com/droverhq/drover/control/api"
	"github.com/droverhq/drover/dataset"
)

// A volume that continues without its home continues from the newest snapshot of the last epoch, whatever the clocks
// of earlier homes said, and not from a snapshot of the data that a restore replaced.
func TestFailoverUsesNewestSnapshotOfLastEpoch(t *testing.T) {
	r := agenttest.New(t)
	d := r.NewVolume("db")
	noon := time.Now().UTC().Round(0)
	take := func(kind dataset.SnapshotKind, epoch uint64, at time.Time) uuid.UUID {
		t.Helper()
		s := dataset.Snapshot{ID: uuid.New(), Dataset: d.ID, Volume: d.Volume, Kind: kind, Epoch: epoch, Created: at}
		if err := r.Pool().Snapshot(t.Context(), s, nil); err != nil {
			t.Fatal(err)
		}
		return s.ID
	}
	take(dataset.SnapshotManual, 1, noon.Add(time.Hour)) // of a home whose clock was ahead
	said := take(dataset.SnapshotTransfer, 2, noon)
	want := take(dataset.SnapshotTransfer, 2, noon.Add(time.Minute))
	take(dataset.SnapshotRestore, 2, noon)
	later := take(dataset.SnapshotRestore, 2, noon.Add(2*time.Minute))
	op := &dataset.Operation{
		Volume: d.Volume, DatasetID: d.ID, Loss: &dataset.Loss{Snapshot: said, Epoch: 2, Taken: noon},
	}
	if err := r.ContinueFromBest(t.Context(), r.Pool(), op); err != nil {
		t.Fatal(err)
	}
	if l := op.Loss; l.Snapshot != want || l.Epoch != 2 || !l.Taken.Equal(noon.Add(time.Minute)) || !slices.Equal(l.SurvivingSnapshots, []uuid.UUID{later}) {
		t.Errorf("the volume continues from %+v", l)
	}
	op.Loss = &dataset.Loss{Epoch: 3, Taken: noon.Add(-time.Hour)}
	if err := r.ContinueFromBest(t.Context(), r.Pool(), op); err == nil {
		t.Errorf("the volume continues from an older epoch than reported: %+v", op.Loss)
	}
}

// A home whose clock was set back still knows which of its snapshots is the newest. That is also true for the
// snapshots that it sends to other nodes, and for the snapshot of a retry.
func TestC4SnapshotOrderWithClockSetBack(t *testing.T) {
	r := agenttest.New(t)
	d := r.NewVolume("db")
	take := func(name string) {
		t.Helper()
		plan, err := r.Registration.Plan(t.Context(), api.Request{ID: uuid.New(), Kind: dataset.OpSnapshot, Volume: "db", Name: name})
		if err == nil {
			_, err = r.Execute(t.Context(), &host.Job{}, *plan.Operation)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	wantNewest := func(name string) dataset.Snapshot {
		t.Helper()
		e, err := r.Pool().Stat(t.Context(), d.ID)
		s, found := host.Promotable(e)
		if err != nil || !found || s.Name != name {
			t.Fatalf("the newest is %q, not %q: %v", s.Name, name, err)
		}
		return s
	}
	take("before")
	r.FakeClock.Set(r.FakeClock.Now().Add(-time.Hour))
	take("after")
	if s := wantNewest("after"); !s.Created.Equal(r.FakeClock.Now()) {
		t.Errorf("the clock says %s, and the snapshot was taken at %s", r.FakeClock.Now(), s.Created)
	}
	given, _, err := r.TransferSource.TakeSnapshot(t.Context(), d.ID, nil)
	if err != nil {
		t.Fatal(err)
	}
	if s := wantNewest(""); s.ID != given.ID {
		t.Errorf("the newest is %s, and another node was given %s", s.ID, given.ID)
	}
	r.FakeClock.Set(r.FakeClock.Now().Add(2 * time.Hour))
	take("right-again")
	if s := wantNewest("right-again"); !s.OrderTime.IsZero() {
		t.Errorf("the clock tells the order, and it is %+v", s)
	}
}

// Snapshots have the time of their home's clock, also those that a restore makes. A snapshot that is made again after
// a crash has the time of the first attempt.
func TestSnapshotsHaveTimeOfHome(t *testing.T) {
	r := agenttest.New(t)
	d := r.NewVolume("db")
	r.FakeClock.Advance(24 * time.Hour)
	first := r.FakeClock.Now()
	for _, cut := range []bool{false, true} {
		for _, req := range []api.Request{
			{ID: uuid.New(), Kind: dataset.OpSnapshot, Volume: "db", Name: fmt.Sprintf("cut-%t", cut)},
			{ID: uuid.New(), Kind: dataset.OpRestore, Volume: "db", Snapshot: fmt.Sprintf("cut-%t", cut)},
		} {
			plan, err := r.Registration.Plan(t.Context(), req)
			if err != nil {
				t.Fatal(err)
			}
			op := *plan.Operation
			if cut {
				tried := *op.Snapshot
				tried.Created = r.FakeClock.Now()
				if err := r.Pool().Snapshot(t.Context(), tried, nil); err != nil {
					t.Fatal(err)
				}
				r.FakeClock.Advance(time.Minute)
			}
			if _, err := r.Execute(t.Context(), &host.Job{}, op); err != nil {
				t.Fatal(err)
			}
		}
	}
	e, err := r.Pool().Stat(t.Context(), d.ID)
	if err != nil || len(e.Snapshots) != 4 {
		t.Fatalf("%+v, %v", e, err)
	}
	list, err := r.Link.Snapshots(t.Context(), "db", api.Page{})
	if err != nil || len(list.Items) != 4 {
		t.Fatalf("%+v, %v", list, err)
	}
	for _, s := range list.Items {
		if beside := e.Snapshots[host.IndexOf(e, s.ID)].Created; s.Created.Before(first) || !s.Created.Equal(beside) {
			t.Errorf("%s %s: on record of %s, in the pool of %s", s.Kind, s.Name, s.Created, beside)
		}
	}
}
