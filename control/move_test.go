package control

import (
	"errors"
	"testing"

	"github.com/google/uuid"

	"github.com/droverhq/drover/control/api"
	"github.com/droverhq/drover/control/record"
	"github.com/droverhq/drover/dataset"
)

func moveTo(volume, node string) api.Request {
	return api.Request{Kind: dataset.OpMove, Volume: volume, Node: node}
}

func forced(volume, node, fenced string) api.Request {
	return api.Request{Kind: dataset.OpMove, Volume: volume, Node: node, Force: true, Fenced: fenced}
}

// yields answers a recall as the agent of the home.
func (a *agent) yields(op dataset.Operation, m *dataset.Manifest, holders ...string) error {
	return a.Yield(a.ctx, a.id, api.Yield{Incarnation: a.incarnation, Operation: op.ID, Dataset: op.DatasetID, Epoch: op.Epoch, Manifest: m, Holders: holders})
}

func (a *agent) recalls(op dataset.Operation) dataset.Operation {
	a.Helper()
	rec, err := a.Recall(a.ctx, a.id, a.report(op))
	if err != nil {
		a.Fatalf("recall for %s: %v", op.ID, err)
	}
	return rec
}

// gaveUp is the manifest of an operation that its home would make.
func gaveUp(op dataset.Operation) *dataset.Manifest {
	return &dataset.Manifest{Snapshot: uuid.NewSHA1(op.ID, []byte("final")), Bytes: 8, Sum: "ab", Taken: someday}
}

// moved takes a volume to a node, by the whole way.
func (e *env) moved(volume string, from, to *agent, name string) dataset.Dataset {
	e.Helper()
	op := *e.submit(moveTo(volume, name)).Operation
	to.recalls(op)
	if err := from.yields(op, gaveUp(op)); err != nil {
		e.Fatalf("yield: %v", err)
	}
	op.Manifest = gaveUp(op)
	return *to.commit(op).Dataset
}

func (e *env) operationNow(id uuid.UUID) dataset.Operation {
	e.Helper()
	op, err := e.Operation(e.ctx, id.String(), 0)
	if err != nil {
		e.Fatalf("%v", err)
	}
	return op
}

func TestMove(t *testing.T) {
	e := newEnv(t)
	a, b := e.agent("alpha"), e.agent("beta")
	d := a.create("db@gold")
	s := a.snapshot("db", "before")
	rev := a.sync(0).Rev

	op := *e.submit(moveTo("db", "beta")).Operation
	if op.Node != b.id || op.From != a.id || op.Epoch != 1 || op.Dataset.Home != b.id || op.Dataset.Epoch != 2 || op.Dataset.Pool != b.pools[0].ID || op.Files {
		t.Errorf("%+v", op)
	}
	if work := b.sync(0).Operations; len(work) != 1 || work[0].ID != op.ID {
		t.Errorf("the target is to do %+v", work)
	}
	if again := *e.submit(moveTo("db", b.id.String()[:8])).Operation; again.ID != op.ID {
		t.Errorf("asked again it is %s, not %s", again.ID, op.ID)
	}
	e.check()

	if rec := b.recalls(op); rec.Manifest != nil {
		t.Errorf("%+v", rec)
	}
	sync := a.sync(rev)
	if len(sync.Datasets) != 1 || sync.Datasets[0].Lease == nil || sync.Datasets[0].Lease.State != dataset.LeaseRecalled || sync.Datasets[0].Lease.Wanted != b.id {
		t.Fatalf("the home hears %+v", sync)
	}
	if err := a.yields(op, nil, "c2", "c1"); err != nil {
		t.Fatal(err)
	}
	if rec := e.operationNow(op.ID); len(rec.Holders) != 2 || rec.Holders[0] != "c1" {
		t.Errorf("held by %v", rec.Holders)
	}
	if v := e.volume("db"); !v.Lease.InUse {
		t.Error("the lease does not say that it is in use")
	}
	m := gaveUp(op)
	for range 2 {
		if err := a.yields(op, m); err != nil {
			t.Fatal(err)
		}
	}
	if rec := e.operationNow(op.ID); rec.Holders != nil || rec.Manifest == nil || *rec.Manifest != *m {
		t.Errorf("%+v", rec)
	}
	op.Manifest = m
	out := b.commit(op)
	if got := *out.Dataset; got.Home != b.id || got.Pool != b.pools[0].ID || got.Epoch != 2 || got.Move != uuid.Nil || len(got.Copies) != 1 || got.Copies[0] != a.id {
		t.Errorf("%+v", got)
	}
	if again := b.commit(op); again.Dataset.Epoch != 2 {
		t.Errorf("reported again: %+v", again)
	}
	e.check()
	sync = a.sync(sync.Rev)
	if len(sync.Datasets) != 0 || len(sync.Copies) != 1 || sync.Copies[0].Kind != dataset.CopyLeft || sync.Copies[0].Epoch != 1 ||
		sync.Copies[0].Snapshot != m.Snapshot || sync.Copies[0].Record == nil || sync.Copies[0].Record.Home != b.id {
		t.Errorf("the home that was left hears %+v", sync)
	}
	if full := a.sync(0); len(full.Copies) != 1 {
		t.Errorf("and all in all %+v", full)
	}
	if full := b.sync(0); len(full.Datasets) != 1 || len(full.Operations) != 0 {
		t.Errorf("the new home has %+v", full)
	}
	if got, err := e.Snapshot(e.ctx, "db", "before"); err != nil || got.ID != s.ID {
		t.Errorf("the snapshot: %+v, %v", got, err)
	}
	if back := e.moved("db", b, a, "alpha"); back.Epoch != 3 || back.Home != a.id || back.ID != d.ID || back.Pool != d.Pool {
		t.Errorf("back home: %+v", back)
	}
	e.check()
	if out := e.submit(moveTo("db", "alpha")); out.Operation != nil || out.Volume.Epoch != 3 {
		t.Errorf("a move to where it is: %+v", out)
	}
}

// A move that takes long says so when its home has given the volume up already, as it was
// planned: what the home gave up stays on record.
func TestMoveThatTakesLong(t *testing.T) {
	e := newEnv(t)
	a, b := e.agent("alpha"), e.agent("beta")
	a.create("db@gold")
	op := *e.submit(moveTo("db", "beta")).Operation
	b.recalls(op)
	m := gaveUp(op)
	if err := a.yields(op, m); err != nil {
		t.Fatal(err)
	}
	if err := e.Record(e.ctx, b.id, b.report(op)); err != nil {
		t.Fatal(err)
	}
	if rec := e.operationNow(op.ID); rec.State != dataset.OpRunning || rec.Manifest == nil || *rec.Manifest != *m {
		t.Errorf("on record as %+v", rec)
	}
	op.Manifest = m
	if got := *b.commit(op).Dataset; got.Home != b.id || got.Epoch != 2 {
		t.Errorf("%+v", got)
	}
	e.check()
}

// A lease that was not given up stays at its epoch; one that was comes back at the
// next, since its home has sworn off the old one.
func TestMoveThatEndsEarly(t *testing.T) {
	for _, given := range []bool{false, true} {
		for name, end := range map[string]func(b *agent, op dataset.Operation) error{
			"cancelled": func(b *agent, op dataset.Operation) error {
				_, err := b.CancelOperation(b.ctx, op.ID.String())
				return err
			},
			"failed": func(b *agent, op dataset.Operation) error {
				op.Problem = &dataset.Problem{Code: "in_use", Message: "in use"}
				return b.commits(op)
			},
		} {
			t.Run(name, func(t *testing.T) {
				e := newEnv(t)
				a, b := e.agent("alpha"), e.agent("beta")
				a.create("db@gold")
				op := *e.submit(moveTo("db", "beta")).Operation
				b.recalls(op)
				want := uint64(1)
				if given {
					want = 2
					if err := a.yields(op, gaveUp(op)); err != nil {
						t.Fatal(err)
					}
				}
				for range 2 {
					if err := end(b, op); err != nil {
						t.Fatal(err)
					}
				}
				v := e.volume("db")
				if v.Home != a.id || v.Epoch != want || v.Move != uuid.Nil || v.Lease.State != dataset.LeaseHeld || v.Lease.Epoch != want || v.Lease.Wanted != uuid.Nil {
					t.Errorf("%+v, %+v", v.Dataset, v.Lease)
				}
				e.check()
				// What is late changes nothing.
				op.Manifest = gaveUp(op)
				if err := b.commits(op); err == nil {
					t.Error("the move that ended was put on record")
				}
				if err := a.yields(op, gaveUp(op)); err == nil {
					t.Error("the recall that ended was answered")
				}
				if _, err := b.Recall(b.ctx, b.id, b.report(op)); err == nil {
					t.Error("a move that ended recalls")
				}
				if got := e.moved("db", a, b, "beta"); got.Epoch != want+1 {
					t.Errorf("moved later: %+v", got)
				}
				e.check()
			})
		}
	}
}

func TestMoveRefused(t *testing.T) {
	e := newEnv(t)
	a, b := e.agent("alpha"), e.agent("beta")
	c := &agent{env: e, id: uuid.New(), incarnation: uuid.New()}
	c.pools = []dataset.Pool{{ID: uuid.New(), Name: "plain", Backend: "dir", Capabilities: dirCan, Path: "/c"}}
	c.register("gamma")
	a.create("db@gold")
	a.create("plain")
	a.snapshot("plain", "one")
	a.create("asked", "fs=xfs")
	if _, err := e.Ledger.Update(e.ctx, func(t *record.Tx) error {
		var n dataset.Node
		if _, err := t.Get(record.NodeKey(b.id), &n); err != nil {
			return err
		}
		n.Cordoned = true
		return t.Put(record.NodeKey(b.id), n)
	}); err != nil {
		t.Fatal(err)
	}
	for _, r := range []struct {
		req   api.Request
		kind  *dataset.Kind
		parts []string
	}{
		{moveTo("none", "beta"), dataset.ErrNotFound, []string{"none"}},
		{moveTo("db", "betta"), dataset.ErrInvalid, []string{"betta", "alpha, beta, gamma"}},
		{moveTo("db", "beta"), dataset.ErrOffline, []string{"beta", "cordoned"}},
		{moveTo("db", "gamma"), dataset.ErrUnsupported, []string{"gamma", "plain", "enforce a size"}},
		{moveTo("plain", "gamma"), dataset.ErrUnsupported, []string{"snapshots", "gamma", "dir"}},
		{moveTo("asked", "gamma"), dataset.ErrUnsupported, []string{"gamma", "pool plain cannot keep profile bronze: it has no filesystem xfs", "(make a pool there that can: drover pool create NAME --backend loop)"}},
		{api.Request{Kind: dataset.OpMove, Volume: "db", Node: "gamma", Force: true}, dataset.ErrInvalid, []string{"--fenced"}},
		{api.Request{Kind: dataset.OpMove, Volume: "db", Node: "gamma", Fenced: "alpha"}, dataset.ErrInvalid, []string{"--force"}},
		{forced("db", "gamma", "beta"), dataset.ErrInvalid, []string{"alpha that has it, not beta"}},
		{forced("db", "gamma", "nobody"), dataset.ErrInvalid, []string{"nobody"}},
		{forced("db", "gamma", "alpha"), dataset.ErrNotFound, []string{"gamma has no whole copy", "none"}},
	} {
		_, err := e.Submit(e.ctx, r.req)
		if err == nil {
			t.Errorf("%+v was not refused", r.req)
			continue
		}
		refused(t, err, r.kind, r.parts...)
	}
	if _, err := a.Plan(a.ctx, a.id, moveTo("db", "beta")); !errors.Is(err, dataset.ErrInvalid) {
		t.Errorf("a plan of a move: %v", err)
	}
	e.check()
}

// Reports that are not of the epoch, node or manifest on record change nothing.
func TestMoveStale(t *testing.T) {
	e := newEnv(t)
	a, b, c := e.agent("alpha"), e.agent("beta"), e.agent("gamma")
	a.create("db@gold")
	op := *e.submit(moveTo("db", "beta")).Operation
	if _, err := e.Submit(e.ctx, moveTo("db", "gamma")); !errors.Is(err, dataset.ErrConflict) {
		t.Errorf("a second move: %v", err)
	}
	m := gaveUp(op)
	if err := a.yields(op, m); !errors.Is(err, dataset.ErrStale) {
		t.Errorf("yielded before it was recalled: %v", err)
	}
	if _, err := c.Recall(c.ctx, c.id, c.report(op)); !errors.Is(err, dataset.ErrForbidden) {
		t.Errorf("recalled by another node: %v", err)
	}
	with := op
	with.Manifest = m
	if err := b.commits(with); !errors.Is(err, dataset.ErrConflict) {
		t.Errorf("committed before it was given up: %v", err)
	}
	b.recalls(op)
	if err := c.yields(op, m); !errors.Is(err, dataset.ErrStale) {
		t.Errorf("yielded by another node: %v", err)
	}
	late := op
	late.Epoch = 7
	if err := a.yields(late, m); !errors.Is(err, dataset.ErrStale) {
		t.Errorf("yielded another epoch: %v", err)
	}
	late = op
	late.DatasetID = uuid.New()
	if err := a.yields(late, m); !errors.Is(err, dataset.ErrStale) {
		t.Errorf("yielded another dataset: %v", err)
	}
	snap := a.plan(api.Request{Kind: dataset.OpSnapshot, Volume: "db"})
	if err := a.yields(op, m); err != nil {
		t.Fatal(err)
	}
	if err := a.commits(snap); !errors.Is(err, dataset.ErrConflict) {
		t.Errorf("a snapshot of what was given up: %v", err)
	}
	if err := a.yields(op, nil, "c1"); err != nil {
		t.Errorf("a late word of holders: %v", err)
	}
	if now := e.operationNow(op.ID); now.Manifest == nil || len(now.Holders) != 0 || e.volume("db").Lease.InUse {
		t.Errorf("after a late word of holders: %+v", now)
	}
	other := *m
	other.Sum = "cd"
	with.Manifest = &other
	if err := b.commits(with); !errors.Is(err, dataset.ErrConflict) {
		t.Errorf("committed with another manifest: %v", err)
	}
	old := b.incarnation
	b.incarnation = uuid.New()
	b.register("beta")
	with.Manifest = m
	if _, err := b.Commit(b.ctx, b.id, api.Report{Incarnation: old, Operation: with}); !errors.Is(err, dataset.ErrStale) {
		t.Errorf("committed by an agent that was followed by another: %v", err)
	}
	b.commit(with)
	e.check()
}

// Deleted while the bytes are on their way: it stays deleted, where it is.
func TestMoveOfWhatIsDeleted(t *testing.T) {
	e := newEnv(t)
	a, b := e.agent("alpha"), e.agent("beta")
	a.create("db@gold")
	op := *e.submit(moveTo("db", "beta")).Operation
	b.recalls(op)
	del := a.plan(api.Request{Kind: dataset.OpDelete, Volume: "db"})
	a.commit(del)
	if err := a.yields(op, gaveUp(op)); !errors.Is(err, dataset.ErrConflict) {
		t.Errorf("yield: %v", err)
	}
	op.Problem = &dataset.Problem{Code: "conflict", Message: "deleted"}
	b.commit(op)
	if d := e.check().datasets[op.DatasetID]; d.State != dataset.StateTrashed || d.Home != a.id || d.Move != uuid.Nil {
		t.Errorf("%+v", d)
	}
}

// Without the home: from the copy, with the loss on record, and the home's head kept
// as superseded.
func TestMoveByForce(t *testing.T) {
	e := newEnv(t)
	a, b, c := e.agent("alpha"), e.agent("beta"), e.agent("gamma")
	a.create("db@gold")
	early := a.snapshot("db", "early")
	e.moved("db", a, b, "beta") // so alpha has a copy, up to then
	late := b.snapshot("db", "late")
	if _, err := e.Ledger.Update(e.ctx, func(t *record.Tx) error { // taken after the copy was
		s, err := t.ReadSnapshot(late.Dataset, late.ID)
		s.Created = someday.Add(1)
		if err == nil {
			err = t.Put(record.SnapshotKey(s.Dataset, s.ID), s)
		}
		return err
	}); err != nil {
		t.Fatal(err)
	}
	plain := *e.submit(moveTo("db", "gamma")).Operation
	c.recalls(plain)

	op := *e.submit(forced("db", "alpha", "beta")).Operation
	if op.Loss == nil || op.Loss.Fenced != b.id || op.Loss.Snapshot == uuid.Nil || op.Epoch != 2 {
		t.Fatalf("%+v", op)
	}
	if got := e.operationNow(plain.ID); got.State != dataset.OpCancelled {
		t.Errorf("the move that waits for the home is %s", got.State)
	}
	got := *a.commit(op).Dataset
	if got.Home != a.id || got.Epoch != 3 || len(got.Copies) != 1 || got.Copies[0] != b.id || got.Latest != early.ID {
		t.Errorf("%+v", got)
	}
	e.check()
	if s := b.sync(0); len(s.Copies) != 1 || s.Copies[0].Kind != dataset.CopySuperseded || len(s.Datasets) != 0 {
		t.Errorf("the one that was overtaken hears %+v", s)
	}
	if _, err := e.Snapshot(e.ctx, "db", "late"); !errors.Is(err, dataset.ErrNotFound) {
		t.Errorf("a snapshot that the copy lacks: %v", err)
	}
	if _, err := e.Snapshot(e.ctx, "db", "early"); err != nil {
		t.Errorf("a snapshot that the copy has: %v", err)
	}
	// What the one that was overtaken says of the old epoch is not heard.
	if err := b.yields(plain, gaveUp(plain)); err == nil {
		t.Error("it yields")
	}
}
