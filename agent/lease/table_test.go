package lease

import (
	"errors"
	"path/filepath"
	"testing"

	"github.com/google/uuid"

	"github.com/droverhq/drover/agent/host"
	"github.com/droverhq/drover/agent/records"
	"github.com/droverhq/drover/control/api"
	"github.com/droverhq/drover/control/store/bolt"
	"github.com/droverhq/drover/dataset"
	"github.com/droverhq/drover/internal/clock"
)

// A recalled dataset may be changed but not opened, a relinquished one neither, also after a restart. At a later
// epoch both are allowed.
func TestTableRefusesRecalledAndRelinquishedDatasets(t *testing.T) {
	st, err := bolt.Open(t.Context(), filepath.Join(t.TempDir(), "agent.db"), bolt.Options{Clock: clock.System{}})
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := st.Close(); err != nil {
			t.Error(err)
		}
	}()
	table := New(&host.Host{DB: records.OpenDB(st), Clock: clock.System{}}, nil, nil, nil, nil)
	d := dataset.Dataset{ID: uuid.New(), Volume: "db", Epoch: 3, Move: uuid.New()}
	expect := func(when string, table *Leases, mayChange, mayOpen bool) {
		t.Helper()
		for name, c := range map[string]struct {
			err  error
			want bool
		}{"MayChange": {table.MayChange(d, "resize"), mayChange}, "MayOpen": {table.MayOpen(d, "mount"), mayOpen}} {
			if (c.err == nil) != c.want || c.err != nil && !errors.Is(c.err, dataset.ErrInUse) {
				t.Errorf("%s: %s returned %v, allowed must be %t", when, name, c.err, c.want)
			}
		}
	}
	expect("held", table, true, true)

	recalled := api.IndexedDataset{Dataset: d}
	recalled.Lease = &dataset.Lease{State: dataset.LeaseRecalled, WantedBy: uuid.New(), Epoch: d.Epoch}
	if !table.Apply(recalled) {
		t.Error("Apply of a recall does not report that control waits for an answer")
	}
	expect("recalled", table, true, false)
	table.EndRecall(d.ID)
	expect("recall ended", table, true, true)

	if err := table.Relinquish(t.Context(), d.ID, Relinquished{Epoch: d.Epoch, Move: d.Move}); err != nil {
		t.Fatal(err)
	}
	expect("relinquished", table, false, false)
	again := New(&host.Host{DB: records.OpenDB(st), Clock: clock.System{}}, nil, nil, nil, nil)
	if err := again.Load(t.Context()); err != nil {
		t.Fatal(err)
	}
	expect("relinquished, after a restart", again, false, false)
	d.Epoch++
	expect("at a later epoch", again, true, true)
	d.Epoch--
	if err := errors.Join(again.Drop(t.Context(), d.ID), again.Drop(t.Context(), d.ID)); err != nil {
		t.Fatal(err)
	}
	expect("dropped", again, true, true)
}

// Control's answer to what was relinquished may arrive after the move has ended and its record was removed. It does not
// bring the record back.
func TestToldAfterTheMoveEnded(t *testing.T) {
	st, err := bolt.Open(t.Context(), filepath.Join(t.TempDir(), "agent.db"), bolt.Options{Clock: clock.System{}})
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := st.Close(); err != nil {
			t.Error(err)
		}
	}()
	id, r := uuid.New(), Relinquished{Epoch: 3, Move: uuid.New()}
	for name, c := range map[string]struct {
		dropped bool
		now     Relinquished
		told    bool
	}{
		"the move continues":    {false, r, true},
		"the move has ended":    {true, Relinquished{}, false},
		"another move has come": {false, Relinquished{Epoch: 4, Move: uuid.New()}, false},
	} {
		table := New(&host.Host{DB: records.OpenDB(st), Clock: clock.System{}}, nil, nil, nil, nil)
		if err := table.Relinquish(t.Context(), id, r); err != nil {
			t.Fatal(err)
		}
		if c.dropped {
			err = table.Drop(t.Context(), id)
		} else {
			err = table.Relinquish(t.Context(), id, c.now)
		}
		if err := errors.Join(err, table.SetReported(t.Context(), id, r)); err != nil {
			t.Fatal(err)
		}
		again := New(&host.Host{DB: records.OpenDB(st), Clock: clock.System{}}, nil, nil, nil, nil)
		if err := again.Load(t.Context()); err != nil {
			t.Fatal(err)
		}
		for where, table := range map[string]*Leases{"in memory": table, "on disk": again} {
			got, there := table.Relinquished(id)
			if there == c.dropped || got.Reported != c.told || got.Move != c.now.Move {
				t.Errorf("%s, %s: the record is there: %t, %+v", name, where, there, got)
			}
		}
	}
}

// I1: an epoch counts as relinquished only once the disk has it. Otherwise control gives it to another node, and this
// node opens it again after a restart.
func TestI1EpochIsNotRelinquishedIfTheDiskRefuses(t *testing.T) {
	st, err := bolt.Open(t.Context(), filepath.Join(t.TempDir(), "agent.db"), bolt.Options{Clock: clock.System{}})
	if err != nil {
		t.Fatal(err)
	}
	if err := st.Close(); err != nil { // each write fails from now on
		t.Fatal(err)
	}
	table, id := New(&host.Host{DB: records.OpenDB(st), Clock: clock.System{}}, nil, nil, nil, nil), uuid.New()
	if err := table.Relinquish(t.Context(), id, Relinquished{Epoch: 3, Move: uuid.New()}); err == nil {
		t.Error("an epoch that is not on disk was relinquished")
	}
	if r, relinquished := table.Relinquished(id); relinquished {
		t.Errorf("the table has %+v, which is not on disk", r)
	}
}
