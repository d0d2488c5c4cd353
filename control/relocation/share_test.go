package relocation_test

import (
	"errors"
	"reflect"
	"slices"
	"strings"
	"testing"

	"github.com/google/uuid"
	"go.uber.org/goleak"

	"github.com/droverhq/drover/control/api"
	"github.com/droverhq/drover/control/controltest"
	"github.com/droverhq/drover/control/membership"
	"github.com/droverhq/drover/dataset"
	"github.com/droverhq/drover/test/assert"
)

// Between pools of one share a volume is moved with its snapshots once its home has yielded it. The old home keeps
// nothing.
func TestMoveOnAShare(t *testing.T) {
	e := controltest.New(t)
	share := uuid.New()
	a, b := e.NewAgentOnShare("alpha", share), e.NewAgentOnShare("beta", share)
	d := a.MustCreateOnShare("db")
	a.MustSnapshot("db", "before")

	op := *e.MustSubmit(controltest.Move("db", "beta")).Operation
	if !op.SameShare || op.FileCopy || op.Loss != nil || op.DatasetRecord.Pool != b.LocalPools[1].ID {
		t.Fatalf("%+v", op)
	}
	assert.ErrorIsf(t, b.TryCommit(op), dataset.ErrConflict, "before its home has yielded it")
	b.MustRecall(op)
	m := &dataset.Manifest{Taken: controltest.Start}
	a.OK(a.TryYield(op, m))
	op.Manifest = m
	got := *b.MustCommit(op).Dataset
	if got.Home != b.ID || got.Pool != b.LocalPools[1].ID || got.Epoch != 2 || len(got.Copies) != 0 || got.Move != uuid.Nil {
		t.Errorf("%+v", got)
	}
	e.CheckInvariants()
	if s := a.MustSync(0); len(s.Copies) != 0 || len(s.Datasets) != 0 {
		t.Errorf("the former home has %+v", s)
	}
	if _, err := e.Snapshot(e.Ctx, "db", "before"); err != nil {
		t.Errorf("its snapshot: %v", err)
	}
	if d.ID != got.ID {
		t.Errorf("it is another one")
	}
}

// The home that must yield is told so, and a home that was left is told that it is not the home any more.
func TestLeavingAShareIsHeard(t *testing.T) {
	e := controltest.New(t)
	share := uuid.New()
	a, b := e.NewAgentOnShare("alpha", share), e.NewAgentOnShare("beta", share)
	d := a.MustCreateOnShare("db")
	rev := a.MustSync(0).Revision
	op := *e.MustSubmit(controltest.Move("db", "beta")).Operation
	b.MustRecall(op)
	s := a.MustSync(rev)
	if len(s.Datasets) != 1 || s.Datasets[0].Lease == nil || s.Datasets[0].Lease.State != dataset.LeaseRecalled {
		t.Fatalf("the node gets %+v", s)
	}
	op.Manifest = &dataset.Manifest{Taken: controltest.Start}
	a.OK(a.TryYield(op, op.Manifest))
	b.MustCommit(op)
	if s := a.MustSync(s.Revision); !slices.Equal(s.RemovedDatasets, []uuid.UUID{d.ID}) {
		t.Errorf("the node gets %+v", s)
	}
}

// If the target has no pool on the share, the files are copied as between any two pools of different kinds, if the
// profile allows it. They are not copied while a pool of the share is on an unreachable node.
func TestMoveOffAShare(t *testing.T) {
	e := controltest.New(t)
	share := uuid.New()
	a, b := e.NewAgentOnShare("alpha", share), e.NewAgentOnShare("beta", share)
	e.NewAgentOnShare("gamma", uuid.Nil)
	e.NewAgentOnShare("delta", uuid.New())
	a.MustCreateOnShare("db")
	if _, err := e.Submit(e.Ctx, controltest.Move("db", "gamma")); !errors.Is(err, dataset.ErrUnsupported) {
		t.Errorf("to a node without such a pool: %v", err)
	}
	op := *e.MustSubmit(controltest.Move("db", "delta")).Operation
	if op.SameShare || !op.FileCopy {
		t.Errorf("to another share: %+v", op)
	}
	e.OK(e.CancelOperation(e.Ctx, op.ID.String()))
	h := api.Heartbeat{Incarnation: b.Incarnation, Incremental: false, Pools: []dataset.PoolStatus{{ID: b.LocalPools[0].ID, Online: true, Size: 1 << 40, Free: 1 << 40}, {ID: b.LocalPools[1].ID, Reason: "it hangs"}}}
	e.OK(e.Heartbeat(e.Ctx, b.ID, h))
	if _, err := e.Submit(e.Ctx, controltest.Move("db", "beta")); !errors.Is(err, dataset.ErrOffline) || !strings.Contains(err.Error(), "it hangs") {
		t.Errorf("to a node whose share hangs: %v", err)
	}
}

// What a lost home had not taken over yet is still in the pool from which it was to take it. That pool stays on
// record if the next home reports that the data is there. No other report is accepted.
func TestNotTakenYetStaysOnRecord(t *testing.T) {
	for _, says := range []string{"taken", "not taken", "nonsense"} {
		e := controltest.New(t)
		share := uuid.New()
		a, b, c := e.NewAgentOnShare("alpha", share), e.NewAgentOnShare("beta", share), e.NewAgentOnShare("gamma", share)
		a.MustCreateOnShare("db")
		first := dataset.TakenOver{FromPool: a.LocalPools[1].ID, Epoch: 1}
		got := *b.MustCommit(*e.MustSubmit(controltest.ForcedMove("db", "beta", "alpha")).Operation).Dataset
		if got.TakenOver == nil || *got.TakenOver != first {
			t.Fatalf("beta: %+v", got.TakenOver)
		}
		op := *e.MustSubmit(controltest.ForcedMove("db", "gamma", "beta")).Operation
		want := dataset.TakenOver{FromPool: b.LocalPools[1].ID, Epoch: 2}
		switch op.DatasetRecord.TakenOver = nil; says {
		case "not taken":
			op.DatasetRecord.TakenOver, want = &first, first
		case "nonsense":
			op.DatasetRecord.TakenOver = &dataset.TakenOver{FromPool: uuid.New(), Epoch: 1}
		}
		if got := *c.MustCommit(op).Dataset; got.TakenOver == nil || *got.TakenOver != want {
			t.Errorf("%s: %+v", says, got.TakenOver)
		}
	}
}

// A node by now has the very pool in which a volume is stored, such as a node that replaces a lost host. The volume
// cannot be moved into that pool, but it can be moved into another pool of the node.
func TestI1MoveIntoThePoolThatItLiesIn(t *testing.T) {
	e := controltest.New(t)
	share := uuid.New()
	a := e.NewAgentOnShare("alpha", share)
	a.MustCreateOnShare("db")
	own := a.LocalPools[1]
	c := &controltest.Agent{Control: e, ID: uuid.New(), Incarnation: uuid.New(), LocalPools: []dataset.Pool{{ID: uuid.New(), Name: "fast", Backend: "loop", Path: "/gamma", Reach: dataset.ReachNode, Capabilities: controltest.LoopCapabilities}, own}}
	c.MustRegister("gamma")
	e.Registered = append(e.Registered, c)
	for _, req := range []api.Request{controltest.ForcedMove("db", "gamma", "alpha"), controltest.Move("db", "gamma")} {
		if op, err := e.Submit(e.Ctx, req); err == nil || !strings.Contains(err.Error(), "drover pool adopt") {
			t.Errorf("force %t: %+v, %v", req.Force, op.Operation, err)
		}
	}
	second := own
	second.ID, second.Path = uuid.New(), own.Path+"2"
	c.LocalPools = append(c.LocalPools, second)
	c.MustRegister("gamma")
	if op := *e.MustSubmit(controltest.ForcedMove("db", "gamma", "alpha")).Operation; !op.SameShare || op.DatasetRecord.Pool != second.ID {
		t.Errorf("%+v", op.DatasetRecord)
	}
}

// If a node has several pools on the share, one that is usable is chosen.
func TestForceIntoAPoolThatServes(t *testing.T) {
	e := controltest.New(t)
	share := uuid.New()
	a, b := e.NewAgentOnShare("alpha", share), e.NewAgentOnShare("beta", share)
	a.MustCreateOnShare("db")
	second := b.LocalPools[1]
	second.ID, second.Path = uuid.New(), second.Path+"2"
	b.LocalPools = append(b.LocalPools, second)
	b.MustRegister("beta")
	h := api.Heartbeat{Incarnation: b.Incarnation, Pools: []dataset.PoolStatus{{ID: b.LocalPools[1].ID, Quarantined: true, Reason: "it is older"}, {ID: second.ID, Online: true}}}
	e.OK(e.Heartbeat(e.Ctx, b.ID, h))
	if op := *e.MustSubmit(controltest.ForcedMove("db", "beta", "alpha")).Operation; !op.SameShare || op.DatasetRecord.Pool != second.ID {
		t.Errorf("%+v", op.DatasetRecord)
	}
}

// Without its home, a volume continues from what is on the share. Nothing is lost, and the superseded home keeps
// nothing.
func TestForceOnAShare(t *testing.T) {
	e := controltest.New(t)
	share := uuid.New()
	a, b := e.NewAgentOnShare("alpha", share), e.NewAgentOnShare("beta", share)
	e.NewAgentOnShare("gamma", uuid.Nil)
	a.MustCreateOnShare("db")
	a.MustSnapshot("db", "before")
	if _, err := e.Submit(e.Ctx, controltest.ForcedMove("db", "gamma", "alpha")); !errors.Is(err, dataset.ErrNotFound) || !strings.Contains(err.Error(), "has no pool on the share") {
		t.Errorf("to a node that does not see it: %v", err)
	}
	op := *e.MustSubmit(controltest.ForcedMove("db", "beta", "alpha")).Operation
	if !op.SameShare || op.Loss == nil || op.Loss.PreviousHome != a.ID {
		t.Fatalf("%+v", op)
	}
	got := *b.MustCommit(op).Dataset
	if got.Home != b.ID || got.Epoch != 2 || got.Pool != b.LocalPools[1].ID || len(got.Copies) != 0 || len(got.Losses) != 0 {
		t.Errorf("%+v", got)
	}
	e.CheckInvariants()
	if _, err := e.Snapshot(e.Ctx, "db", "before"); err != nil {
		t.Errorf("its snapshot: %v", err)
	}
	if s := a.MustSync(0); len(s.Copies) != 0 || len(s.Datasets) != 0 {
		t.Errorf("the superseded home has %+v", s)
	}
}

// Once the home of a volume on a share is lost, the volume continues automatically, without any copy, on the node
// that asks for it. It does not on a node that cannot see the share or has no guard.
func TestFailoverOnAShare(t *testing.T) {
	x := controltest.NewReplicas(t, 1)
	e := x.On(x.Services[0])
	controltest.AddAutoFailover(x.Profiles, 0)
	auto := x.Profiles.ByName["auto"]
	auto.Size, auto.Snapshots = 0, dataset.Snapshots{}
	auto.Failover.Fence = dataset.Fence{Kind: dataset.FenceExec, Exec: []string{"/sbin/shut-out"}}
	x.Profiles.ByName["auto"] = auto
	share := uuid.New()
	l := &controltest.LostHome{Control: e, Replicas: x, Alpha: e.NewAgentOnShare("alpha", share), Beta: e.NewAgentOnShare("beta", share), Gamma: e.NewAgentOnShare("gamma", uuid.Nil)}
	d := e.NewAgentOnShare("delta", share)
	for _, a := range []*controltest.Agent{l.Alpha, l.Beta, l.Gamma} {
		a.ReportGuard()
	}
	l.Others = []*controltest.Agent{d}
	op := l.Alpha.MustPlan(controltest.Create("db@auto", "pool=shared"))
	l.Alpha.MustCommit(op)
	if op, err := l.AskFailover(l.Service, "beta"); op != nil || err != nil {
		t.Errorf("with its home reachable: %+v, %v", op, err)
	}
	l.Wait(membership.LossCheckInterval, l.Alpha, l.Beta, l.Gamma, d) // as after a check just now
	op = l.MustFailOver()
	if !op.SameShare || op.Node != l.Beta.ID || op.DatasetRecord.Pool != l.Beta.LocalPools[1].ID || op.DatasetRecord.Epoch != 2 || op.Loss.UnreachableIndex == 0 || op.Loss.PreviousHome != l.Alpha.ID || !strings.Contains(op.Loss.Reason, "a fence command excludes it first") {
		t.Fatalf("%+v, %+v", op, op.Loss)
	}
	got := *l.Beta.MustCommit(op).Dataset
	if got.Home != l.Beta.ID || got.Epoch != 2 || len(got.Copies) != 0 || len(got.Losses) != 0 {
		t.Errorf("%+v", got)
	}
	l.RestartAgent(l.Alpha, "alpha")
	if s := l.Alpha.MustSync(0); len(s.Copies) != 0 || len(s.Datasets) != 0 {
		t.Errorf("the superseded home has %+v", s)
	}
	l.Replicas.EndSession(l.Beta)
	l.Wait(membership.LossCheckInterval, l.Alpha, l.Gamma, d)
	_, err := l.AskFailover(l.Service, "gamma")
	controltest.Refused(t, err, dataset.ErrPending)
	l.Wait(l.Timing.Session, l.Alpha, l.Gamma, d)
	for node, why := range map[string]string{"gamma": "has no pool on the share", "delta": "has no guard that responds"} {
		_, err := l.AskFailover(l.Service, node)
		controltest.Refused(t, err, dataset.ErrOffline, "no copy takes over automatically", why)
	}
}

// If nobody asked for a filesystem, it excludes no pool as the target of a move that copies single files. The target
// pool creates the filesystem that it supports, and that is recorded.
func TestMoveToAnotherKind(t *testing.T) {
	e := controltest.New(t)
	a, c := e.NewAgent("alpha"), &controltest.Agent{Control: e, ID: uuid.New(), Incarnation: uuid.New()}
	c.LocalPools = []dataset.Pool{{ID: uuid.New(), Name: "plain", Backend: "dir", Capabilities: controltest.DirCapabilities, Path: "/c"}}
	c.MustRegister("gamma")
	e.Registered = append(e.Registered, c)
	made := a.MustPlan(controltest.Create("db"))
	made.DatasetRecord.Size, made.DatasetRecord.Profile.Filesystem = 30*dataset.GiB, dataset.Filesystem{Type: "xfs", Chosen: true}
	a.MustCommit(made)
	op := *e.MustSubmit(controltest.Move("db", "gamma")).Operation
	if want := (dataset.Filesystem{}); !op.FileCopy || !reflect.DeepEqual(op.DatasetRecord.Profile.Filesystem, want) {
		t.Errorf("%+v, %+v", op, op.DatasetRecord)
	}
	for _, to := range []struct {
		from, to *controltest.Agent
		has      dataset.Filesystem
		size     dataset.Size
	}{{a, c, dataset.Filesystem{}, 0}, {c, a, dataset.Filesystem{Type: "ext4", Chosen: true}, 9 * dataset.GiB}} {
		if to.to == a {
			op = *e.MustSubmit(controltest.Move("db", "alpha")).Operation
		}
		to.to.MustRecall(op)
		e.OK(to.from.TryYield(op, controltest.Relinquished(op)))
		op.Manifest, op.DatasetRecord.Size, op.DatasetRecord.Profile.Filesystem = controltest.Relinquished(op), to.size, to.has
		if got := *to.to.MustCommit(op).Dataset; !reflect.DeepEqual(got.Profile.Filesystem, to.has) || got.Size != to.size {
			t.Errorf("on record with %s, %+v", got.Size, got.Profile.Filesystem)
		}
		e.CheckInvariants()
	}
}

// If somebody asked for a filesystem, it is kept by a move that copies single files. Only such a move changes the
// filesystem of a volume: anything else that a target reports is not recorded.
func TestMoveKeepsWhatWasAsked(t *testing.T) {
	e := controltest.New(t)
	a, b, c := e.NewAgent("alpha"), e.NewAgent("beta"), &controltest.Agent{Control: e, ID: uuid.New(), Incarnation: uuid.New()}
	other := controltest.LoopCapabilities
	other.Delta = false
	c.LocalPools = []dataset.Pool{{ID: uuid.New(), Name: "other", Backend: "other", Capabilities: other, Path: "/c"}}
	c.MustRegister("gamma")
	asked := a.MustCreate("db", "fs=xfs").Profile.Filesystem
	if asked.Type != "xfs" || asked.Chosen {
		t.Fatalf("%+v", asked)
	}
	for _, to := range []struct {
		name     string
		from, to *controltest.Agent
		files    bool
	}{{"beta", a, b, false}, {"gamma", b, c, true}} {
		op := *e.MustSubmit(controltest.Move("db", to.name)).Operation
		if op.FileCopy != to.files || !reflect.DeepEqual(op.DatasetRecord.Profile.Filesystem, asked) {
			t.Errorf("to %s: files %t, %+v", to.name, op.FileCopy, op.DatasetRecord.Profile.Filesystem)
		}
		to.to.MustRecall(op)
		e.OK(to.from.TryYield(op, controltest.Relinquished(op)))
		size := op.DatasetRecord.Size
		op.Manifest = controltest.Relinquished(op)
		if !to.files {
			op.DatasetRecord.Size, op.DatasetRecord.Profile.Filesystem = 9*dataset.GiB, dataset.Filesystem{Type: "ext4", Chosen: true}
		}
		if got := *to.to.MustCommit(op).Dataset; !reflect.DeepEqual(got.Profile.Filesystem, asked) || got.Size != size {
			t.Errorf("on record at %s with %s, %+v", to.name, got.Size, got.Profile.Filesystem)
		}
		e.CheckInvariants()
	}
}

// A volume that is transferred as a whole already has its filesystem. A node whose host lacks mkfs accepts it, also
// as a replica, but no volume that must be formatted there.
func TestMoveToANodeWithoutMkfs(t *testing.T) {
	e := controltest.New(t)
	e.AddReplicaProfile(1)
	a := e.NewAgent("alpha")
	less := controltest.LoopCapabilities
	less.Filesystems = nil
	for _, c := range []struct {
		node  string
		holds []string
	}{{"gamma", []string{"xfs"}}, {"delta", nil}} {
		n := &controltest.Agent{Control: e, ID: uuid.New(), Incarnation: uuid.New()}
		n.LocalPools = []dataset.Pool{{ID: uuid.New(), Name: "fast", Backend: "loop", Capabilities: less, AcceptedFilesystems: c.holds, Path: "/c",
			MissingFeatures: []string{"xfs needs mkfs.xfs (apt-get install xfsprogs)"}}}
		n.MustRegister(c.node)
		e.Registered = append(e.Registered, n)
	}
	if op := e.Registered[1].MustPlan(controltest.Create("new@silver", "fs=xfs")); op.Node != a.ID {
		t.Errorf("made where there is no mkfs: %+v", op)
	}
	a.MustCreate("db@silver", "fs=xfs")
	e.MustRefuse(controltest.Move("db", "delta"), dataset.ErrUnsupported, "xfs needs mkfs.xfs", "pool fast of node gamma could")
	if op := e.MustSubmit(controltest.Move("db", "gamma")).Operation; op.FileCopy {
		t.Errorf("%+v", op)
	}
	a.MustCreate("off@silver", "fs=xfs")
	e.EditNode(a, func(n *dataset.Node) { n.Cordoned, n.Draining = true, true })
	if op := e.MustSubmit(api.Request{Kind: dataset.OpMove, Volume: "off"}).Operation; op.Node != e.Registered[1].ID {
		t.Errorf("off its node: %+v", op)
	}
	e.EditNode(a, func(n *dataset.Node) { n.Cordoned, n.Draining = false, false })
	d := a.MustCreate("safe@safe", "fs=xfs")
	if got := e.MustVolume("safe").Copies; len(got) != 1 || got[0] != e.Registered[1].ID {
		t.Errorf("copies of %s: %v", d.ID, got)
	}
}

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }
