package placement_test

import (
	"errors"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/uuid"

	"github.com/droverhq/drover/control/api"
	"github.com/droverhq/drover/control/controltest"
	"github.com/droverhq/drover/control/placement"
	"github.com/droverhq/drover/control/record"
	"github.com/droverhq/drover/dataset"
)

// A dataset that is destroyed is destroyed on every node that has it, and its record is removed last.
func TestPurgeWithCopies(t *testing.T) {
	e := controltest.New(t)
	a, b := e.NewAgent("alpha"), e.NewAgent("beta")
	a.MustCreate("db@fleeting")
	d := e.MustMove("db", a, b, "beta")
	gone := api.CopyReport{Incarnation: a.Incarnation, Copy: dataset.Copy{Dataset: d.ID, Node: a.ID}, Removed: true}
	if err := a.ReportCopy(a.Ctx, a.ID, gone); !errors.Is(err, dataset.ErrStale) {
		t.Errorf("destroyed without a request: %v", err)
	}
	rev := a.MustSync(0).Revision
	d = b.MustDelete("db")
	if s := a.MustSync(rev); len(s.Copies) != 1 || s.Copies[0].Kind != dataset.CopyCondemned {
		t.Errorf("%+v", s)
	}
	b.MustPurge(d)
	b.MustPurge(d)
	if left := e.CheckInvariants().Datasets[d.ID]; left.Home != uuid.Nil || left.State != dataset.StatePurging {
		t.Errorf("%+v", left)
	}
	_, err := e.Submit(e.Ctx, api.Request{Kind: dataset.OpPurge, Volume: d.ID.String()})
	controltest.Refused(t, err, dataset.ErrPending, "alpha")
	for range 2 {
		if err := a.ReportCopy(a.Ctx, a.ID, gone); err != nil {
			t.Fatal(err)
		}
	}
	if st := e.CheckInvariants(); len(st.Datasets) != 0 {
		t.Errorf("%+v", st.Datasets)
	}
}

// The copy that a move leaves is removed after a day of uptime, and not earlier.
func TestLeftCopyExpires(t *testing.T) {
	e := controltest.New(t)
	a, b := e.NewAgent("alpha"), e.NewAgent("beta")
	a.MustCreate("db@gold")
	d := e.MustMove("db", a, b, "beta")
	e.Round()
	e.AdvanceClock(placement.LeftCopyRetention - 1)
	e.Memory.ForgetDue = e.Clock.Now()
	e.Round()
	if s := a.MustSync(0); s.Copies[0].Kind != dataset.CopyLeft {
		t.Errorf("gone early: %+v", s.Copies)
	}
	e.AdvanceClock(1)
	e.Memory.ForgetDue = e.Clock.Now()
	e.Round()
	s := a.MustSync(0)
	if s.Copies[0].Kind != dataset.CopyCondemned {
		t.Errorf("it stays: %+v", s.Copies)
	}
	k := s.Copies[0].Copy
	if err := a.ReportCopy(a.Ctx, a.ID, api.CopyReport{Incarnation: a.Incarnation, Copy: k, Removed: true}); err != nil {
		t.Fatal(err)
	}
	if left := e.CheckInvariants().Datasets[d.ID]; len(left.Copies) != 0 || left.State != dataset.StateReady {
		t.Errorf("%+v", left)
	}
	if len(e.Failures) != 0 {
		t.Error(e.Failures)
	}
}

// The report of a node about an earlier copy, or about another epoch, does not change the recorded copy.
func TestStaleSightingsOfCopies(t *testing.T) {
	e := controltest.New(t)
	e.AddReplicaProfile(1)
	a, b := e.NewAgent("alpha"), e.NewAgent("beta")
	d := a.MustCreate("db@safe")
	says := func(epoch uint64) {
		t.Helper()
		c := dataset.Copy{Dataset: d.ID, Node: b.ID, Kind: dataset.CopyReplica, Epoch: epoch, Snapshot: uuid.New(), Taken: controltest.Start.Add(time.Hour)}
		if err := b.Heartbeat(b.Ctx, b.ID, api.Heartbeat{Incarnation: b.Incarnation, Copies: []dataset.Copy{c}}); err != nil {
			t.Fatal(err)
		}
	}
	says(1)
	_, err := e.Submit(e.Ctx, controltest.ForcedMove("db", "beta", "alpha"))
	controltest.Refused(t, err, dataset.ErrNotFound, "no complete copy")
	b.ReportCopyTaken(d, controltest.Start)
	says(2)
	if op := e.MustSubmit(controltest.ForcedMove("db", "beta", "alpha")).Operation; !op.Loss.Taken.Equal(controltest.Start) {
		t.Errorf("%+v", op.Loss)
	}
}

// The copy at the target of a move is not removed, even if its time is over or there are more replicas than wanted.
func TestTargetOfAMoveKeepsItsCopy(t *testing.T) {
	e := controltest.New(t)
	e.AddReplicaProfile(1)
	a, b := e.NewAgent("alpha"), e.NewAgent("beta")
	a.MustCreate("db@silver")
	d := e.MustMove("db", a, b, "beta")
	e.Round()
	kind := func() dataset.CopyKind { e.CheckInvariants(); return a.MustSync(0).Copies[0].Kind }
	over := func() {
		e.AdvanceClock(2 * placement.LeftCopyRetention)
		e.Memory.ForgetDue, e.Memory.FullDue = e.Clock.Now(), e.Clock.Now()
		e.Round()
	}
	back := *e.MustSubmit(controltest.Move("db", "alpha")).Operation
	over()
	if got := kind(); got != dataset.CopyLeft {
		t.Errorf("the copy that a move left is %s during a move back to it", got)
	}
	if _, err := e.Ledger.Update(e.Ctx, func(t *record.Tx) error {
		c := dataset.Copy{Dataset: d.ID, Node: a.ID, Pool: a.LocalPools[0].ID, Kind: dataset.CopyReplica}
		return t.Put(record.CopyKey(a.ID, d.ID), c)
	}); err != nil {
		t.Fatal(err)
	}
	over()
	if got := kind(); got != dataset.CopyReplica {
		t.Errorf("a replica is %s during a move to it", got)
	}
	if _, err := e.CancelOperation(e.Ctx, back.ID.String()); err != nil {
		t.Fatal(err)
	}
	over()
	if got := kind(); got != dataset.CopyCondemned {
		t.Errorf("after the end of the move it is %s", got)
	}
}

// A node reports only its own copies.
func TestCopyOfAnotherNode(t *testing.T) {
	e := controltest.New(t)
	a, b := e.NewAgent("alpha"), e.NewAgent("beta")
	d := a.MustCreate("db@gold")
	e.MustMove("db", a, b, "beta")
	before := e.Dump()
	c := dataset.Copy{Dataset: d.ID, Node: b.ID, Pool: a.LocalPools[0].ID, Kind: dataset.CopySuperseded, Epoch: 9, Snapshot: uuid.New(), Taken: controltest.Start}
	controltest.Refused(t, e.ReportCopy(e.Ctx, a.ID, api.CopyReport{Incarnation: a.Incarnation, Copy: c}), dataset.ErrForbidden, "node "+b.ID.String())
	if diff := cmp.Diff(before, e.Dump()); diff != "" {
		t.Errorf("it is on record (-before +after):\n%s", diff)
	}
}

// A node's report about its copy is accepted only if its epoch is not earlier than the recorded one, and while the
// copy is not condemned.
func TestLateWordOfACopy(t *testing.T) {
	e := controltest.New(t)
	e.AddReplicaProfile(1)
	a, b := e.NewAgent("alpha"), e.NewAgent("beta")
	d := a.MustCreate("db@safe")
	copyOf := func() (c dataset.Copy) {
		t.Helper()
		if there, err := record.NewTx(e.Ctx, e.Ledger.Store).Get(record.CopyKey(b.ID, d.ID), &c); err != nil || !there {
			t.Fatal(there, err)
		}
		return c
	}
	later := d
	later.Epoch++
	b.ReportCopyTaken(d, controltest.Start.Add(-time.Hour))
	b.ReportCopyTaken(d, controltest.Start)
	if got := copyOf(); !got.Taken.Equal(controltest.Start) {
		t.Errorf("a later snapshot of the same epoch is not accepted: %+v", got)
	}
	b.ReportCopyTaken(later, controltest.Start.Add(time.Hour))
	want := copyOf()
	if want.Epoch != later.Epoch || !want.Taken.Equal(controltest.Start.Add(time.Hour)) {
		t.Fatalf("%+v", want)
	}
	b.ReportCopyTaken(d, controltest.Start.Add(2*time.Hour))
	if got := copyOf(); got != want {
		t.Errorf("an earlier epoch: %+v, and it was %+v", got, want)
	}
	if _, err := e.Ledger.Update(e.Ctx, func(t *record.Tx) error { return record.CondemnCopy(t, b.ID, d.ID) }); err != nil {
		t.Fatal(err)
	}
	want = copyOf()
	later.Epoch++
	b.ReportCopyTaken(later, controltest.Start.Add(3*time.Hour))
	if got := copyOf(); got != want {
		t.Errorf("it is condemned: %+v, and it was %+v", got, want)
	}
}

// I3: a copy that a move left does not expire if it is at the home itself, or is as late as the home's data: it may
// be the last good one.
func TestI3LeftCopyAsLateAsItsHome(t *testing.T) {
	for name, f := range map[string]func(a *controltest.Agent, d *dataset.Dataset){
		"it is the home's": func(a *controltest.Agent, d *dataset.Dataset) { d.Home = a.ID },
		"it is as late":    func(_ *controltest.Agent, d *dataset.Dataset) { d.Epoch-- },
	} {
		t.Run(name, func(t *testing.T) {
			e := controltest.New(t)
			a, b := e.NewAgent("alpha"), e.NewAgent("beta")
			a.MustCreate("db@gold")
			d := e.MustMove("db", a, b, "beta")
			e.Round()
			e.EditDataset(d.ID, func(d *dataset.Dataset, _ *dataset.Lease) { f(a, d) })
			e.AdvanceClock(placement.LeftCopyRetention)
			e.Memory.ForgetDue = e.Clock.Now()
			e.Round()
			var c dataset.Copy
			if there, err := record.NewTx(e.Ctx, e.Ledger.Store).Get(record.CopyKey(a.ID, d.ID), &c); err != nil || !there || c.Kind != dataset.CopyLeft {
				t.Errorf("%+v, %v, %v", c, there, err)
			}
		})
	}
}
