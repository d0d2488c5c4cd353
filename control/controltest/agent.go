package controltest

import (
	"encoding/json"
	"time"

	"github.com/google/uuid"

	"github.com/droverhq/drover/control/api"
	"github.com/droverhq/drover/control/record"
	"github.com/droverhq/drover/dataset"
	"github.com/droverhq/drover/test/require"
)

// Agent is the agent of one node. It plans and reports, and does nothing in between.
type Agent struct {
	*Control
	ID, Incarnation uuid.UUID
	LocalPools      []dataset.Pool
}

// Capabilities of the pools that agents register.
var (
	LoopCapabilities = dataset.Capabilities{
		EnforcesSize: true, InstantSnapshot: true, CloneIndependent: true, OnlineGrow: true, OwnFilesystem: true,
		Delta: true, Filesystems: []string{"xfs", "ext4"},
	}
	DirCapabilities   = dataset.Capabilities{CloneIndependent: true}
	ShareCapabilities = dataset.Capabilities{CloneIndependent: true, ManyHosts: true}
)

// MustRegister registers the node and reports that it trusts the store.
func (a *Agent) MustRegister(name string) {
	a.Helper()
	err := a.Register(a.Ctx, api.Registration{
		Pools: a.LocalPools, Node: dataset.Node{ID: a.ID, Name: name, Incarnation: a.Incarnation},
	})
	require.NoErrorf(a, err, "register %s", name)
	a.ReportDistrust("")
}

// ReportOf returns the report that an operation succeeded. If the operation made a dataset, the report contains the
// status of the dataset, like the report of a real agent.
func (a *Agent) ReportOf(op dataset.Operation) api.Report {
	r := api.Report{Incarnation: a.Incarnation, Operation: op}
	switch op.Kind {
	case dataset.OpCreate, dataset.OpClone, dataset.OpImport:
		if op.Problem == nil {
			r.Status = &dataset.DatasetStatus{ID: op.DatasetID}
		}
	}
	return r
}

// CreateVolumeWithID creates a volume whose dataset has the given UUID.
func (a *Agent) CreateVolumeWithID(spec, id string) dataset.Dataset {
	a.Helper()
	op := a.MustPlan(Create(spec))
	op.DatasetID = uuid.MustParse(id)
	op.DatasetRecord.ID = op.DatasetID
	return *a.MustCommit(op).Dataset
}

// PlanEachKind plans one operation of each kind that control does not record before an agent carries it out, except
// rekey. It creates the volumes for them.
func (a *Agent) PlanEachKind() map[dataset.OpKind]dataset.Operation {
	a.Helper()
	a.MustCreate("db@gold")
	a.MustCreate("gone@fleeting")
	s := a.MustSnapshot("db", "one")
	d := a.MustDelete("gone")
	ops := map[dataset.OpKind]dataset.Operation{}
	for _, req := range []api.Request{
		Create("new@gold"),
		{Kind: dataset.OpClone, Volume: "copy", Options: map[string]string{"from": "db"}},
		{Kind: dataset.OpImport, Volume: "imported", Path: "/srv/data"},
		{Kind: dataset.OpSnapshot, Volume: "db", Name: "two"},
		{Kind: dataset.OpSnapshotDelete, Volume: "db", Snapshot: s.ID.String()},
		{Kind: dataset.OpRestore, Volume: "db", Snapshot: s.ID.String()},
		{Kind: dataset.OpResize, Volume: "db", Size: "30GiB"},
		{Kind: dataset.OpDelete, Volume: "db"},
		{Kind: dataset.OpPurge, Volume: d.ID.String()},
	} {
		ops[req.Kind] = a.MustPlan(req)
	}
	return ops
}

// heartbeat sends a heartbeat, which must be accepted.
func (a *Agent) heartbeat(h api.Heartbeat) {
	a.Helper()
	h.Incarnation = a.Incarnation
	require.NoErrorf(a, a.Heartbeat(a.Ctx, a.ID, h), "heartbeat %+v", h)
}

// ReportDistrust reports why the node does not trust the store. An empty reason means that it does.
func (a *Agent) ReportDistrust(why string) {
	a.Helper()
	a.heartbeat(api.Heartbeat{StoreDoubt: why})
}

// MustPlan plans a request that must result in an operation.
func (a *Agent) MustPlan(req api.Request) dataset.Operation {
	a.Helper()
	p, err := a.Plan(a.Ctx, a.ID, req)
	require.NoErrorf(a, err, "plan %s %s", req.Kind, req.Volume)
	if p.Operation == nil || p.Unchanged != nil {
		a.Fatalf("plan %s %s: got %+v, want an operation", req.Kind, req.Volume, p)
	}
	return *p.Operation
}

// MustCommit commits an operation, which must succeed.
func (a *Agent) MustCommit(op dataset.Operation) api.Committed {
	a.Helper()
	out, err := a.Commit(a.Ctx, a.ID, a.ReportOf(op))
	require.NoErrorf(a, err, "commit %s %s", op.Kind, op.Volume)
	a.checkAnswer(out)
	return out
}

// checkAnswer checks that an answer equals the record at its index. The agent takes the answer for the complete record,
// so a difference would stay.
func (a *Agent) checkAnswer(out api.Committed) {
	a.Helper()
	if out.Dataset == nil {
		return
	}
	st := a.Ledger.Store
	if a.Spy != nil {
		st = a.Spy.Store // these reads are not counted
	}
	e, err := st.Get(a.Ctx, record.DatasetKey(out.Dataset.ID))
	if err != nil || e.Index != out.Index {
		return
	}
	if said, err := json.Marshal(out.Dataset); err != nil || string(said) != string(e.Value) {
		a.Errorf("at index %d: got the answer\n%s, %v, want the record\n%s", out.Index, said, err, e.Value)
	}
}

// MustDo plans and commits a request.
func (a *Agent) MustDo(req api.Request) api.Committed {
	a.Helper()
	return a.MustCommit(a.MustPlan(req))
}

// MustCreate creates a volume. The options have the form KEY=VALUE.
func (a *Agent) MustCreate(spec string, options ...string) dataset.Dataset {
	a.Helper()
	out := a.MustDo(Create(spec, options...))
	if out.Duplicate || out.Dataset == nil {
		a.Fatalf("create %s: got %+v, want a dataset", spec, out)
	}
	return *out.Dataset
}

// MustSnapshot takes a snapshot of a volume.
func (a *Agent) MustSnapshot(volume, name string) dataset.Snapshot {
	a.Helper()
	op := a.MustPlan(api.Request{Kind: dataset.OpSnapshot, Volume: volume, Name: name})
	a.MustCommit(op)
	s, err := a.Snapshot(a.Ctx, "", op.Snapshot.ID.String())
	require.NoErrorf(a, err, "snapshot of %s", volume)
	return s
}

// MustDelete deletes a volume and returns its dataset.
func (a *Agent) MustDelete(volume string) dataset.Dataset {
	a.Helper()
	return *a.MustDo(api.Request{Kind: dataset.OpDelete, Volume: volume}).Dataset
}

// MustPurge reports that a condemned dataset is destroyed. Agents do so without a request.
func (a *Agent) MustPurge(d dataset.Dataset) {
	a.Helper()
	a.MustCommit(dataset.Operation{
		ID: uuid.NewMD5(d.ID, []byte("purge")), Kind: dataset.OpPurge, Node: a.ID,
		Volume: d.Volume, DatasetID: d.ID, Epoch: d.Epoch, State: dataset.OpPending,
	})
}

// DoWork commits every operation that is recorded for the node.
func (a *Agent) DoWork() {
	a.Helper()
	s, err := a.Sync(a.Ctx, a.ID, 0, 0)
	require.NoErrorf(a, err, "sync")
	for _, op := range s.Operations {
		a.MustCommit(op)
	}
}

// OpenOperations returns the operations that are recorded for the node and have not ended.
func (a *Agent) OpenOperations() []dataset.Operation {
	a.Helper()
	ops, err := record.OpenWork(record.NewTx(a.Ctx, a.Spy), a.ID)
	a.OK(err)
	return ops
}

// MustRefusePlan plans a request that must be refused. See Refused.
func (a *Agent) MustRefusePlan(req api.Request, kind *dataset.Kind, parts ...string) {
	a.Helper()
	p, err := a.Plan(a.Ctx, a.ID, req)
	if err == nil {
		a.Fatalf("%s %s %v got the plan %+v, want %s", req.Kind, req.Volume, req.Options, p, kind.Code)
	}
	Refused(a, err, kind, parts...)
}

// facts returns the facts of a node with half of each pool free, after change.
func (a *Agent) facts(change func(*dataset.Facts)) dataset.Facts {
	f := dataset.Facts{
		Architecture: "x86_64", Kernel: "6.12.1", OS: "debian", CPUs: 4,
		MemoryTotal: 100 << 30, MemoryFree: 50 << 30, Load1: 20, Load10: 20, Load15: 20,
	}
	for _, p := range a.LocalPools {
		f.Pools = append(f.Pools, dataset.PoolFacts{
			ID: p.ID, Name: p.Name, Backend: p.Backend, Online: true, Size: 1 << 40, Free: 1 << 39,
		})
	}
	if change != nil {
		change(&f)
	}
	return f
}

// ReportFacts reports facts, which must be accepted, and returns the recorded facts.
func (a *Agent) ReportFacts(change func(*dataset.Facts)) dataset.Facts {
	a.Helper()
	on, err := a.Facts(a.Ctx, a.ID, api.FactsReport{Incarnation: a.Incarnation, Facts: a.facts(change)})
	require.NoErrorf(a, err, "facts")
	return on
}

// ReportGuard reports that the guard of the node answers.
func (a *Agent) ReportGuard() {
	a.Helper()
	a.heartbeat(api.Heartbeat{GuardRunning: true, NodeTime: a.Clock.Now()})
}

// ReportCurrentCopy reports the copy of a dataset: when its snapshot was taken, and until when it had all changes, both
// by the clock of the home.
func (a *Agent) ReportCurrentCopy(d dataset.Dataset, taken, current time.Time) {
	a.Helper()
	a.ReportCopyTaken(d, taken)
	c, _ := a.Reports.Copy(a.ID, d.ID)
	c.VerifiedAtHome = current
	a.heartbeat(api.Heartbeat{GuardRunning: true, NodeTime: a.Clock.Now(), Copies: []dataset.Copy{c}})
}

// ReportPool reports the status of a pool.
func (a *Agent) ReportPool(st dataset.PoolStatus) {
	a.Helper()
	a.heartbeat(api.Heartbeat{GuardRunning: true, NodeTime: a.Clock.Now(), Pools: []dataset.PoolStatus{st}})
}

// ReportOnline reports whether the first pool of the node is online.
func (a *Agent) ReportOnline(online bool) {
	a.ReportPool(dataset.PoolStatus{ID: a.LocalPools[0].ID, Online: online})
}

// TryYield answers a recall, as the agent of the home does.
func (a *Agent) TryYield(op dataset.Operation, m *dataset.Manifest, holders ...string) error {
	return a.Yield(a.Ctx, a.ID, api.Yield{
		Incarnation: a.Incarnation, Operation: op.ID, Dataset: op.DatasetID, Epoch: op.Epoch,
		Manifest: m, InUseBy: holders,
	})
}

// MustRecall recalls the lease for a move to this node.
func (a *Agent) MustRecall(op dataset.Operation) dataset.Operation {
	a.Helper()
	rec, err := a.Recall(a.Ctx, a.ID, a.ReportOf(op))
	require.NoErrorf(a, err, "recall for %s", op.ID)
	return rec
}

// ReportOpen reports, as the home of a dataset, why it cannot open the dataset. An empty problem means that it can.
func (a *Agent) ReportOpen(d dataset.Dataset, problem string) {
	a.Helper()
	a.heartbeat(api.Heartbeat{Datasets: []dataset.DatasetStatus{{ID: d.ID, Problem: problem}}})
}

// ReportIdle reports that a volume is not mounted on this node.
func (a *Agent) ReportIdle(volume string) {
	a.Helper()
	st := dataset.DatasetStatus{ID: a.MustVolume(volume).ID}
	a.heartbeat(api.Heartbeat{Datasets: []dataset.DatasetStatus{st}})
}

// FoundDatasets returns what the pools of a cluster contain if they agree with the store.
func (a *Agent) FoundDatasets() (all []api.FoundDataset) {
	a.Helper()
	st := a.CheckInvariants()
	for _, d := range st.Datasets {
		f := api.FoundDataset{Pool: d.Pool, Dataset: d}
		for _, s := range st.Snapshots {
			if s.Dataset == d.ID {
				f.Snapshots = append(f.Snapshots, s)
			}
		}
		all = append(all, f)
	}
	return all
}

// MustRebuild reports datasets for a rebuild, and returns the results by dataset.
func (a *Agent) MustRebuild(found ...api.FoundDataset) map[uuid.UUID]api.Rebuilt {
	a.Helper()
	list, err := a.Rebuild(a.Ctx, a.ID, found, false)
	if err != nil || len(list) != len(found) {
		a.Fatalf("rebuild: got %d results, %v, want %d", len(list), err, len(found))
	}
	out := map[uuid.UUID]api.Rebuilt{}
	for _, r := range list {
		out[r.Dataset] = r
	}
	return out
}

// MustSeal creates a volume with a data key.
func (a *Agent) MustSeal(req api.Request, e dataset.Encryption) dataset.Dataset {
	a.Helper()
	op := a.MustPlan(req)
	op.DatasetRecord.Encryption = &e
	return *a.MustCommit(op).Dataset
}

// ReportCopyTaken reports that the node has a copy of a dataset, with a snapshot that was taken at a time.
func (a *Agent) ReportCopyTaken(d dataset.Dataset, taken time.Time) {
	a.Helper()
	c := dataset.Copy{Dataset: d.ID, Node: a.ID, Epoch: d.Epoch, Snapshot: uuid.New(), Taken: taken}
	require.NoErrorf(a, a.ReportCopy(a.Ctx, a.ID, api.CopyReport{Incarnation: a.Incarnation, Copy: c}), "copied")
}

// MustCreateOnShare creates a volume in the pool on the share.
func (a *Agent) MustCreateOnShare(name string) dataset.Dataset {
	a.Helper()
	op := a.MustPlan(api.Request{Kind: dataset.OpCreate, Volume: name, Options: map[string]string{"pool": "shared"}})
	return *a.MustCommit(op).Dataset
}

// TryCommit commits an operation.
func (a *Agent) TryCommit(op dataset.Operation) error {
	_, err := a.Commit(a.Ctx, a.ID, a.ReportOf(op))
	return err
}

// TrySubmit submits a request.
func (a *Agent) TrySubmit(req api.Request) error {
	_, err := a.Submit(a.Ctx, req)
	return err
}

// MustSync asks for all changes since a revision.
func (a *Agent) MustSync(rev uint64) api.Sync {
	a.Helper()
	s, err := a.Sync(a.Ctx, a.ID, rev, 0)
	require.NoErrorf(a, err, "sync")
	return s
}
