package relocation_test

import (
	"errors"
	"testing"

	"github.com/google/uuid"

	"github.com/droverhq/drover/control/api"
	"github.com/droverhq/drover/control/controltest"
	"github.com/droverhq/drover/control/record"
	"github.com/droverhq/drover/dataset"
	"github.com/droverhq/drover/test/assert"
)

// A move without a target node goes to the node with the freshest copy. If there is none, it goes where a new volume
// would be placed, except to the present home.
func TestMoveAway(t *testing.T) {
	e, a := controltest.OneNode(t)
	a.MustCreate("db@gold")
	away := controltest.Move("db", "")
	_, err := e.Submit(e.Ctx, away)
	controltest.Refused(t, err, dataset.ErrOffline, "no other node")
	b := e.NewAgent("beta")
	e.EditNode(b, func(n *dataset.Node) { n.Cordoned = true })
	e.MustRefuse(away, dataset.ErrOffline, "beta", "cordoned")
	c := e.NewAgent("gamma")
	op := *e.MustSubmit(away).Operation
	if op.Node != c.ID {
		t.Errorf("to %s, not gamma", op.Node)
	}
	if again := *e.MustSubmit(away).Operation; again.ID != op.ID {
		t.Error("requested again, it is another move")
	}
	e.OK(e.CancelOperation(e.Ctx, op.ID.String()))
	e.EditNode(b, func(n *dataset.Node) { n.Cordoned = false })
	e.MustMove("db", a, b, "beta") // alpha keeps a copy
	if op = *e.MustSubmit(away).Operation; op.Node != a.ID {
		t.Errorf("to %s, not to the copy on alpha", op.Node)
	}
	e.OK(e.CancelOperation(e.Ctx, op.ID.String()))
	if op = *e.MustSubmit(controltest.ForcedMove("db", "", "beta")).Operation; op.Node != a.ID || op.Loss == nil {
		t.Errorf("by force: %+v", op)
	}
	a.MustCommit(op)
	e.MustRefuse(controltest.ForcedMove("db", "", "alpha"), dataset.ErrNotFound, "complete copy")
	e.CheckInvariants()
}

func TestMove(t *testing.T) {
	e, a, b := controltest.TwoNodes(t)
	d := a.MustCreate("db@gold")
	s := a.MustSnapshot("db", "before")
	rev := a.MustSync(0).Revision

	op := *e.MustSubmit(controltest.Move("db", "beta")).Operation
	if op.Node != b.ID || op.OtherNode != a.ID || op.Epoch != 1 || op.DatasetRecord.Home != b.ID || op.DatasetRecord.Epoch != 2 || op.DatasetRecord.Pool != b.LocalPools[0].ID || op.FileCopy {
		t.Errorf("%+v", op)
	}
	if op.Change != "from node alpha to node beta" {
		t.Errorf("it changes %q", op.Change)
	}
	if work := b.MustSync(0).Operations; len(work) != 1 || work[0].ID != op.ID {
		t.Errorf("the target must do %+v", work)
	}
	if again := *e.MustSubmit(controltest.Move("db", b.ID.String()[:8])).Operation; again.ID != op.ID {
		t.Errorf("requested again, it is %s, want %s", again.ID, op.ID)
	}
	e.CheckInvariants()

	if rec := b.MustRecall(op); rec.Manifest != nil {
		t.Errorf("%+v", rec)
	}
	sync := a.MustSync(rev)
	if len(sync.Datasets) != 1 || sync.Datasets[0].Lease == nil || sync.Datasets[0].Lease.State != dataset.LeaseRecalled || sync.Datasets[0].Lease.WantedBy != b.ID {
		t.Fatalf("the home gets %+v", sync)
	}
	a.OK(a.TryYield(op, nil, "c2", "c1"))
	if rec := e.MustOperation(op.ID); len(rec.InUseBy) != 2 || rec.InUseBy[0] != "c1" {
		t.Errorf("held by %v", rec.InUseBy)
	}
	if v := e.MustVolume("db"); !v.Lease.InUse {
		t.Error("the lease does not say that it is in use")
	}
	m := controltest.Relinquished(op)
	for range 2 {
		a.OK(a.TryYield(op, m))
	}
	if rec := e.MustOperation(op.ID); rec.InUseBy != nil || rec.Manifest == nil || *rec.Manifest != *m {
		t.Errorf("%+v", rec)
	}
	op.Manifest = m
	out := b.MustCommit(op)
	if got := *out.Dataset; got.Home != b.ID || got.Pool != b.LocalPools[0].ID || got.Epoch != 2 || got.Move != uuid.Nil || len(got.Copies) != 1 || got.Copies[0] != a.ID {
		t.Errorf("%+v", got)
	}
	if again := b.MustCommit(op); again.Dataset.Epoch != 2 {
		t.Errorf("reported again: %+v", again)
	}
	e.CheckInvariants()
	sync = a.MustSync(sync.Revision)
	if len(sync.Datasets) != 0 || len(sync.Copies) != 1 || sync.Copies[0].Kind != dataset.CopyLeft || sync.Copies[0].Epoch != 1 ||
		sync.Copies[0].Snapshot != m.Snapshot || sync.Copies[0].Record == nil || sync.Copies[0].Record.Home != b.ID {
		t.Errorf("the former home gets %+v", sync)
	}
	if full := a.MustSync(0); len(full.Copies) != 1 {
		t.Errorf("and in a full sync %+v", full)
	}
	if full := b.MustSync(0); len(full.Datasets) != 1 || len(full.Operations) != 0 {
		t.Errorf("the new home has %+v", full)
	}
	if got, err := e.Snapshot(e.Ctx, "db", "before"); err != nil || got.ID != s.ID {
		t.Errorf("the snapshot: %+v, %v", got, err)
	}
	if back := e.MustMove("db", b, a, "alpha"); back.Epoch != 3 || back.Home != a.ID || back.ID != d.ID || back.Pool != d.Pool {
		t.Errorf("back home: %+v", back)
	}
	e.CheckInvariants()
	if out := e.MustSubmit(controltest.Move("db", "alpha")); out.Operation != nil || out.Volume.Epoch != 3 {
		t.Errorf("a move to the present home: %+v", out)
	}
}

// If the home has already yielded the volume when a long move is planned, the move says so. What the home yielded
// stays on record.
func TestMoveThatTakesLong(t *testing.T) {
	e, a, b := controltest.TwoNodes(t)
	a.MustCreate("db@gold")
	op := *e.MustSubmit(controltest.Move("db", "beta")).Operation
	b.MustRecall(op)
	m := controltest.Relinquished(op)
	a.OK(a.TryYield(op, m))
	e.OK(e.Record(e.Ctx, b.ID, b.ReportOf(op)))
	if rec := e.MustOperation(op.ID); rec.State != dataset.OpRunning || rec.Manifest == nil || *rec.Manifest != *m {
		t.Errorf("on record as %+v", rec)
	}
	op.Manifest = m
	if got := *b.MustCommit(op).Dataset; got.Home != b.ID || got.Epoch != 2 {
		t.Errorf("%+v", got)
	}
	e.CheckInvariants()
}

// A lease that was not yielded stays at its epoch. One that was yielded continues at the next epoch, because its home
// has relinquished the old one.
func TestMoveThatEndsEarly(t *testing.T) {
	for _, given := range []bool{false, true} {
		for name, end := range map[string]func(b *controltest.Agent, op dataset.Operation) error{
			"cancelled": func(b *controltest.Agent, op dataset.Operation) error {
				_, err := b.CancelOperation(b.Ctx, op.ID.String())
				return err
			},
			"failed": func(b *controltest.Agent, op dataset.Operation) error {
				op.Problem = &dataset.Problem{Code: "in_use", Message: "in use"}
				return b.TryCommit(op)
			},
		} {
			t.Run(name, func(t *testing.T) {
				e, a, b := controltest.TwoNodes(t)
				a.MustCreate("db@gold")
				op := *e.MustSubmit(controltest.Move("db", "beta")).Operation
				b.MustRecall(op)
				want := uint64(1)
				if given {
					want = 2
					a.OK(a.TryYield(op, controltest.Relinquished(op)))
				}
				for range 2 {
					b.OK(end(b, op))
				}
				v := e.MustVolume("db")
				if v.Home != a.ID || v.Epoch != want || v.Move != uuid.Nil || v.Lease.State != dataset.LeaseHeld || v.Lease.Epoch != want || v.Lease.WantedBy != uuid.Nil {
					t.Errorf("%+v, %+v", v.Dataset, v.Lease)
				}
				e.CheckInvariants()
				// Late reports change nothing.
				op.Manifest = controltest.Relinquished(op)
				if err := b.TryCommit(op); err == nil {
					t.Error("the move that ended was put on record")
				}
				if err := a.TryYield(op, controltest.Relinquished(op)); err == nil {
					t.Error("the recall that ended was answered")
				}
				if _, err := b.Recall(b.Ctx, b.ID, b.ReportOf(op)); err == nil {
					t.Error("a move that ended recalls")
				}
				if got := e.MustMove("db", a, b, "beta"); got.Epoch != want+1 {
					t.Errorf("moved later: %+v", got)
				}
				e.CheckInvariants()
			})
		}
	}
}

func TestMoveRefused(t *testing.T) {
	e, a, b := controltest.TwoNodes(t)
	c := &controltest.Agent{Control: e, ID: uuid.New(), Incarnation: uuid.New()}
	c.LocalPools = []dataset.Pool{{ID: uuid.New(), Name: "plain", Backend: "dir", Capabilities: controltest.DirCapabilities, Path: "/c"}}
	c.MustRegister("gamma")
	a.MustCreate("db@gold")
	a.MustCreate("plain")
	a.MustSnapshot("plain", "one")
	a.MustCreate("asked", "fs=xfs")
	e.OK(e.Ledger.Update(e.Ctx, func(t *record.Tx) error {
		var n dataset.Node
		if _, err := t.Get(record.NodeKey(b.ID), &n); err != nil {
			return err
		}
		n.Cordoned = true
		return t.Put(record.NodeKey(b.ID), n)
	}))
	for _, r := range []struct {
		req   api.Request
		kind  *dataset.Kind
		parts []string
	}{
		{controltest.Move("none", "beta"), dataset.ErrNotFound, []string{"none"}},
		{controltest.Move("db", "betta"), dataset.ErrInvalid, []string{"betta", "alpha, beta, gamma"}},
		{controltest.Move("db", "beta"), dataset.ErrOffline, []string{"beta", "drover node cordon --off beta"}},
		{controltest.Move("db", "gamma"), dataset.ErrUnsupported, []string{"gamma", "plain", "enforce a size"}},
		{controltest.Move("plain", "gamma"), dataset.ErrUnsupported, []string{"snapshots", "gamma", "dir"}},
		{controltest.Move("asked", "gamma"), dataset.ErrUnsupported, []string{"gamma", "pool plain cannot satisfy profile bronze: it has no filesystem xfs", "(create a suitable pool there: drover pool create NAME --backend loop)"}},
		{api.Request{Kind: dataset.OpMove, Volume: "db", Node: "gamma", Force: true}, dataset.ErrInvalid, []string{"--fenced"}},
		{api.Request{Kind: dataset.OpMove, Volume: "db", Node: "gamma", Fenced: "alpha"}, dataset.ErrInvalid, []string{"--force"}},
		{controltest.ForcedMove("db", "gamma", "beta"), dataset.ErrInvalid, []string{"alpha, not beta"}},
		{controltest.ForcedMove("db", "gamma", "nobody"), dataset.ErrInvalid, []string{"nobody"}},
		{controltest.ForcedMove("db", "gamma", "alpha"), dataset.ErrNotFound, []string{"gamma has no complete " +
			"copy", "none"}},
	} {
		_, err := e.Submit(e.Ctx, r.req)
		if err == nil {
			t.Errorf("%+v was not refused", r.req)
			continue
		}
		controltest.Refused(t, err, r.kind, r.parts...)
	}
	if _, err := a.Plan(a.Ctx, a.ID, controltest.Move("db", "beta")); !errors.Is(err, dataset.ErrInvalid) {
		t.Errorf("a plan of a move: %v", err)
	}
	e.CheckInvariants()
}

// Reports with another epoch, node or manifest than the recorded one change nothing.
func TestMoveStale(t *testing.T) {
	e := controltest.New(t)
	a, b, c := e.NewAgent("alpha"), e.NewAgent("beta"), e.NewAgent("gamma")
	a.MustCreate("db@gold")
	op := *e.MustSubmit(controltest.Move("db", "beta")).Operation
	if _, err := e.Submit(e.Ctx, controltest.Move("db", "gamma")); !errors.Is(err, dataset.ErrConflict) {
		t.Errorf("a second move: %v", err)
	}
	m := controltest.Relinquished(op)
	assert.ErrorIsf(t, a.TryYield(op, m), dataset.ErrStale, "yielded before it was recalled")
	if _, err := c.Recall(c.Ctx, c.ID, c.ReportOf(op)); !errors.Is(err, dataset.ErrForbidden) {
		t.Errorf("recalled by another node: %v", err)
	}
	with := op
	with.Manifest = m
	assert.ErrorIsf(t, b.TryCommit(with), dataset.ErrConflict, "committed before it was yielded")
	b.MustRecall(op)
	assert.ErrorIsf(t, c.TryYield(op, m), dataset.ErrStale, "yielded by another node")
	late := op
	late.Epoch = 7
	assert.ErrorIsf(t, a.TryYield(late, m), dataset.ErrStale, "yielded another epoch")
	late = op
	late.DatasetID = uuid.New()
	assert.ErrorIsf(t, a.TryYield(late, m), dataset.ErrStale, "yielded another dataset")
	snap := a.MustPlan(api.Request{Kind: dataset.OpSnapshot, Volume: "db"})
	a.OK(a.TryYield(op, m))
	assert.ErrorIsf(t, a.TryCommit(snap), dataset.ErrConflict, "a snapshot of the yielded volume")
	assert.NoErrorf(t, a.TryYield(op, nil, "c1"), "a late report of holders")
	if now := e.MustOperation(op.ID); now.Manifest == nil || len(now.InUseBy) != 0 || e.MustVolume("db").Lease.InUse {
		t.Errorf("after a late report of holders: %+v", now)
	}
	other := *m
	other.SHA256 = "cd"
	with.Manifest = &other
	assert.ErrorIsf(t, b.TryCommit(with), dataset.ErrConflict, "committed with another manifest")
	old := b.Incarnation
	b.Incarnation = uuid.New()
	b.MustRegister("beta")
	with.Manifest = m
	if _, err := b.Commit(b.Ctx, b.ID, api.Report{Incarnation: old, Operation: with}); !errors.Is(err, dataset.ErrStale) {
		t.Errorf("committed by an agent that was replaced: %v", err)
	}
	b.MustCommit(with)
	e.CheckInvariants()
}

// A volume that is deleted while its data is being transferred stays deleted, where it is.
func TestMoveOfWhatIsDeleted(t *testing.T) {
	e, a, b := controltest.TwoNodes(t)
	a.MustCreate("db@gold")
	op := *e.MustSubmit(controltest.Move("db", "beta")).Operation
	b.MustRecall(op)
	del := a.MustPlan(api.Request{Kind: dataset.OpDelete, Volume: "db"})
	a.MustCommit(del)
	assert.ErrorIsf(t, a.TryYield(op, controltest.Relinquished(op)), dataset.ErrConflict, "yield")
	op.Problem = &dataset.Problem{Code: "conflict", Message: "deleted"}
	b.MustCommit(op)
	if d := e.CheckInvariants().Datasets[op.DatasetID]; d.State != dataset.StateTrashed || d.Home != a.ID || d.Move != uuid.Nil {
		t.Errorf("%+v", d)
	}
}

// Without the home, the volume continues from the copy. The loss is recorded, and the home's head is kept as
// superseded.
func TestMoveByForce(t *testing.T) {
	e := controltest.New(t)
	a, b, c := e.NewAgent("alpha"), e.NewAgent("beta"), e.NewAgent("gamma")
	a.MustCreate("db@gold")
	early := a.MustSnapshot("db", "early")
	e.MustMove("db", a, b, "beta") // so alpha has a copy up to that moment
	late := b.MustSnapshot("db", "late")
	e.OK(e.Ledger.Update(e.Ctx, func(t *record.Tx) error { // taken after the copy
		s, err := t.ReadSnapshot(late.Dataset, late.ID)
		s.Created = controltest.Start.Add(1)
		if err == nil {
			err = t.Put(record.SnapshotKey(s.Dataset, s.ID), s)
		}
		return err
	}))
	plain := *e.MustSubmit(controltest.Move("db", "gamma")).Operation
	c.MustRecall(plain)

	op := *e.MustSubmit(controltest.ForcedMove("db", "alpha", "beta")).Operation
	if op.Loss == nil || op.Loss.PreviousHome != b.ID || op.Loss.Snapshot == uuid.Nil || op.Epoch != 2 {
		t.Fatalf("%+v", op)
	}
	if got := e.MustOperation(plain.ID); got.State != dataset.OpCancelled {
		t.Errorf("the move that waits for the home is %s", got.State)
	}
	got := *a.MustCommit(op).Dataset
	if got.Home != a.ID || got.Epoch != 3 || len(got.Copies) != 1 || got.Copies[0] != b.ID || got.HeadParent != early.ID {
		t.Errorf("%+v", got)
	}
	e.CheckInvariants()
	if s := b.MustSync(0); len(s.Copies) != 1 || s.Copies[0].Kind != dataset.CopySuperseded || len(s.Datasets) != 0 {
		t.Errorf("the superseded home gets %+v", s)
	}
	if _, err := e.Snapshot(e.Ctx, "db", "late"); !errors.Is(err, dataset.ErrNotFound) {
		t.Errorf("a snapshot that the copy lacks: %v", err)
	}
	if _, err := e.Snapshot(e.Ctx, "db", "early"); err != nil {
		t.Errorf("a snapshot that the copy has: %v", err)
	}
	// Reports of the superseded home about the old epoch are ignored.
	if err := b.TryYield(plain, controltest.Relinquished(plain)); err == nil {
		t.Error("it yields")
	}
}
