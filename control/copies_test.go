package control

import (
	"errors"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/uuid"

	"github.com/droverhq/drover/control/api"
	"github.com/droverhq/drover/control/record"
	"github.com/droverhq/drover/control/replica"
	"github.com/droverhq/drover/dataset"
)

// What is destroyed is destroyed wherever it lies, and forgotten last of all.
func TestPurgeWithCopies(t *testing.T) {
	e := newEnv(t)
	a, b := e.agent("alpha"), e.agent("beta")
	a.create("db@fleeting")
	d := e.moved("db", a, b, "beta")
	gone := api.Copied{Incarnation: a.incarnation, Copy: dataset.Copy{Dataset: d.ID, Node: a.id}, Gone: true}
	if err := a.Copied(a.ctx, a.id, gone); !errors.Is(err, dataset.ErrStale) {
		t.Errorf("destroyed though nobody wanted that: %v", err)
	}
	rev := a.sync(0).Rev
	d = b.delete("db")
	if s := a.sync(rev); len(s.Copies) != 1 || s.Copies[0].Kind != dataset.CopyGoing {
		t.Errorf("%+v", s)
	}
	b.purge(d)
	b.purge(d)
	if left := e.check().datasets[d.ID]; left.Home != uuid.Nil || left.State != dataset.StatePurging {
		t.Errorf("%+v", left)
	}
	_, err := e.Submit(e.ctx, api.Request{Kind: dataset.OpPurge, Volume: d.ID.String()})
	refused(t, err, dataset.ErrPending, "alpha")
	for range 2 {
		if err := a.Copied(a.ctx, a.id, gone); err != nil {
			t.Fatal(err)
		}
	}
	if st := e.check(); len(st.datasets) != 0 {
		t.Errorf("%+v", st.datasets)
	}
}

// The copy that a move leaves goes after a day of running, and not before.
func TestLeftCopyExpires(t *testing.T) {
	e := newEnv(t)
	a, b := e.agent("alpha"), e.agent("beta")
	a.create("db@gold")
	d := e.moved("db", a, b, "beta")
	e.rounds()
	e.pass(replica.LeftFor - 1)
	e.house.Forget = e.clock.Now()
	e.rounds()
	if s := a.sync(0); s.Copies[0].Kind != dataset.CopyLeft {
		t.Errorf("gone early: %+v", s.Copies)
	}
	e.pass(1)
	e.house.Forget = e.clock.Now()
	e.rounds()
	s := a.sync(0)
	if s.Copies[0].Kind != dataset.CopyGoing {
		t.Errorf("it stays: %+v", s.Copies)
	}
	k := s.Copies[0].Copy
	if err := a.Copied(a.ctx, a.id, api.Copied{Incarnation: a.incarnation, Copy: k, Gone: true}); err != nil {
		t.Fatal(err)
	}
	if left := e.check().datasets[d.ID]; len(left.Copies) != 0 || left.State != dataset.StateReady {
		t.Errorf("%+v", left)
	}
	if len(e.failures) != 0 {
		t.Error(e.failures)
	}
}

// A move that names no node goes to the freshest copy, or else where a new volume would,
// but for its home.
func TestMoveAway(t *testing.T) {
	e := newEnv(t)
	a := e.agent("alpha")
	a.create("db@gold")
	away := moveTo("db", "")
	_, err := e.Submit(e.ctx, away)
	refused(t, err, dataset.ErrOffline, "no other node")
	b := e.agent("beta")
	e.edit(b, func(n *dataset.Node) { n.Cordoned = true })
	_, err = e.Submit(e.ctx, away)
	refused(t, err, dataset.ErrOffline, "beta", "cordoned")
	c := e.agent("gamma")
	op := *e.submit(away).Operation
	if op.Node != c.id {
		t.Errorf("to %s, not gamma", op.Node)
	}
	if again := *e.submit(away).Operation; again.ID != op.ID {
		t.Error("asked again it is another move")
	}
	if _, err := e.CancelOperation(e.ctx, op.ID.String()); err != nil {
		t.Fatal(err)
	}
	e.edit(b, func(n *dataset.Node) { n.Cordoned = false })
	e.moved("db", a, b, "beta") // alpha keeps a copy
	if op = *e.submit(away).Operation; op.Node != a.id {
		t.Errorf("to %s, not to the copy on alpha", op.Node)
	}
	if _, err := e.CancelOperation(e.ctx, op.ID.String()); err != nil {
		t.Fatal(err)
	}
	if op = *e.submit(forced("db", "", "beta")).Operation; op.Node != a.id || op.Loss == nil {
		t.Errorf("by force: %+v", op)
	}
	a.commit(op)
	_, err = e.Submit(e.ctx, forced("db", "", "alpha")) // what beta keeps was overtaken
	refused(t, err, dataset.ErrNotFound, "whole copy")
	e.check()
}

// What a node said of an earlier copy, or of another epoch, is not of the one on record.
func TestStaleSightingsOfCopies(t *testing.T) {
	e := newEnv(t)
	e.replicated(1)
	a, b := e.agent("alpha"), e.agent("beta")
	d := a.create("db@safe")
	says := func(epoch uint64) {
		t.Helper()
		c := dataset.Copy{Dataset: d.ID, Node: b.id, Kind: dataset.CopyReplica, Epoch: epoch, Snapshot: uuid.New(), Taken: someday.Add(time.Hour)}
		if err := b.Heartbeat(b.ctx, b.id, api.Heartbeat{Incarnation: b.incarnation, Copies: []dataset.Copy{c}}); err != nil {
			t.Fatal(err)
		}
	}
	says(1)
	_, err := e.Submit(e.ctx, forced("db", "beta", "alpha"))
	refused(t, err, dataset.ErrNotFound, "no whole copy")
	b.hasCopy(d, someday)
	says(2)
	if op := e.submit(forced("db", "beta", "alpha")).Operation; !op.Loss.Taken.Equal(someday) {
		t.Errorf("%+v", op.Loss)
	}
}

// A copy that a move goes to is not let go of, whether its time is over or there are more
// than are wanted.
func TestTargetOfAMoveKeepsItsCopy(t *testing.T) {
	e := newEnv(t)
	e.replicated(1)
	a, b := e.agent("alpha"), e.agent("beta")
	a.create("db@silver")
	d := e.moved("db", a, b, "beta")
	e.rounds()
	kind := func() dataset.CopyKind { e.check(); return a.sync(0).Copies[0].Kind }
	over := func() {
		e.pass(2 * replica.LeftFor)
		e.house.Forget, e.house.Full = e.clock.Now(), e.clock.Now()
		e.rounds()
	}
	back := *e.submit(moveTo("db", "alpha")).Operation
	over()
	if got := kind(); got != dataset.CopyLeft {
		t.Errorf("what a move left is %s under one that comes back to it", got)
	}
	if _, err := e.Ledger.Update(e.ctx, func(t *record.Tx) error {
		c := dataset.Copy{Dataset: d.ID, Node: a.id, Pool: a.pools[0].ID, Kind: dataset.CopyReplica}
		return t.Put(record.CopyKey(a.id, d.ID), c)
	}); err != nil {
		t.Fatal(err)
	}
	over()
	if got := kind(); got != dataset.CopyReplica {
		t.Errorf("a replica is %s under a move that comes to it", got)
	}
	if _, err := e.CancelOperation(e.ctx, back.ID.String()); err != nil {
		t.Fatal(err)
	}
	over()
	if got := kind(); got != dataset.CopyGoing {
		t.Errorf("without the move it is %s", got)
	}
}

// A node reports only copies of its own.
func TestCopyOfAnotherNode(t *testing.T) {
	e := newEnv(t)
	a, b := e.agent("alpha"), e.agent("beta")
	d := a.create("db@gold")
	e.moved("db", a, b, "beta")
	before := e.dump()
	c := dataset.Copy{Dataset: d.ID, Node: b.id, Pool: a.pools[0].ID, Kind: dataset.CopySuperseded, Epoch: 9, Snapshot: uuid.New(), Taken: someday}
	refused(t, e.Copied(e.ctx, a.id, api.Copied{Incarnation: a.incarnation, Copy: c}), dataset.ErrForbidden, "node "+b.id.String())
	if diff := cmp.Diff(before, e.dump()); diff != "" {
		t.Errorf("it is on record (-before +after):\n%s", diff)
	}
}
