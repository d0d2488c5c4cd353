package controltest

import (
	"encoding/json"
	"time"

	"github.com/google/uuid"

	"github.com/droverhq/drover/control/api"
	"github.com/droverhq/drover/control/record"
	"github.com/droverhq/drover/dataset"
)

// ForgeVolume makes a volume whose dataset has a chosen UUID.
func (a *Agent) ForgeVolume(spec, id string) dataset.Dataset {
	a.Helper()
	op := a.MustPlan(Create(spec))
	op.DatasetID = uuid.MustParse(id)
	op.Dataset.ID = op.DatasetID
	return *a.MustCommit(op).Dataset
}

// one operation of each kind that agents report, on volumes that are there.
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

func (a *Agent) ReportDistrust(why string) {
	a.Helper()
	if err := a.Heartbeat(a.Ctx, a.ID, api.Heartbeat{Incarnation: a.Incarnation, Distrust: why}); err != nil {
		a.Fatalf("heartbeat: %v", err)
	}
}

// Agent stands for the agent of one node: it plans, does nothing, and reports.
type Agent struct {
	*Control
	ID, Incarnation uuid.UUID
	LocalPools      []dataset.Pool
}

var (
	LoopCapabilities = dataset.Capabilities{
		EnforcesSize: true, InstantSnapshot: true, CloneIndependent: true, OnlineGrow: true, OwnFilesystem: true,
		Delta: true, Filesystems: []string{"xfs", "ext4"},
	}
	DirCapabilities = dataset.Capabilities{CloneIndependent: true}
	shareCan        = dataset.Capabilities{CloneIndependent: true, ManyHosts: true}
)

func (a *Agent) MustRegister(name string) {
	a.Helper()
	err := a.Register(a.Ctx, api.Registration{Node: dataset.Node{ID: a.ID, Name: name, Incarnation: a.Incarnation, Does: []dataset.OpKind{dataset.OpRekey, dataset.OpRewrite}}, Pools: a.LocalPools})
	if err != nil {
		a.Fatalf("register %s: %v", name, err)
	}
	a.ReportDistrust("")
}

func (a *Agent) ReportOf(op dataset.Operation) api.Report {
	return api.Report{Incarnation: a.Incarnation, Operation: op}
}

// MustPlan expects an operation.
func (a *Agent) MustPlan(req api.Request) dataset.Operation {
	a.Helper()
	p, err := a.Plan(a.Ctx, a.ID, req)
	if err != nil {
		a.Fatalf("plan %s %s: %v", req.Kind, req.Volume, err)
	}
	if p.Operation == nil || p.Done != nil {
		a.Fatalf("plan %s %s: nothing to do", req.Kind, req.Volume)
	}
	return *p.Operation
}

// MustCommit expects success.
func (a *Agent) MustCommit(op dataset.Operation) api.Committed {
	a.Helper()
	out, err := a.Commit(a.Ctx, a.ID, a.ReportOf(op))
	if err != nil {
		a.Fatalf("commit %s %s: %v", op.Kind, op.Volume, err)
	}
	a.agrees(out)
	return out
}

// agrees checks that an answer has what is on record at its index: the agent takes nothing
// else for that any more.
func (a *Agent) agrees(out api.Committed) {
	a.Helper()
	if out.Dataset == nil {
		return
	}
	st := a.Ledger.Store
	if a.Spy != nil {
		st = a.Spy.Store // what is read for this does not count
	}
	e, err := st.Get(a.Ctx, record.DatasetKey(out.Dataset.ID))
	if err != nil || e.Index != out.Index {
		return
	}
	if said, err := json.Marshal(out.Dataset); err != nil || string(said) != string(e.Value) {
		a.Errorf("at index %d the answer has\n%s, %v, and the record\n%s", out.Index, said, err, e.Value)
	}
}

// MustDo plans and commits.
func (a *Agent) MustDo(req api.Request) api.Committed {
	a.Helper()
	return a.MustCommit(a.MustPlan(req))
}

func (a *Agent) MustCreate(spec string, options ...string) dataset.Dataset {
	a.Helper()
	out := a.MustDo(Create(spec, options...))
	if out.Lost || out.Dataset == nil {
		a.Fatalf("create %s: %+v", spec, out)
	}
	return *out.Dataset
}

func (a *Agent) MustSnapshot(volume, name string) dataset.Snapshot {
	a.Helper()
	op := a.MustPlan(api.Request{Kind: dataset.OpSnapshot, Volume: volume, Name: name})
	a.MustCommit(op)
	s, err := a.Snapshot(a.Ctx, "", op.Snapshot.ID.String())
	if err != nil {
		a.Fatalf("snapshot of %s: %v", volume, err)
	}
	return s
}

func (a *Agent) MustDelete(volume string) dataset.Dataset {
	a.Helper()
	return *a.MustDo(api.Request{Kind: dataset.OpDelete, Volume: volume}).Dataset
}

// MustPurge reports that what is condemned is gone, as agents do by themselves.
func (a *Agent) MustPurge(d dataset.Dataset) {
	a.Helper()
	a.MustCommit(dataset.Operation{
		ID: uuid.NewSHA1(d.ID, []byte("purge")), Kind: dataset.OpPurge, Node: a.ID,
		Volume: d.Volume, DatasetID: d.ID, Epoch: d.Epoch, State: dataset.OpPending,
	})
}

// DoWork carries out everything that is on record for the node.
func (a *Agent) DoWork() {
	a.Helper()
	s, err := a.Sync(a.Ctx, a.ID, 0, 0)
	if err != nil {
		a.Fatalf("sync: %v", err)
	}
	for _, op := range s.Operations {
		a.MustCommit(op)
	}
}

// OpenOperations returns the operations on record for the node that are not final.
func (a *Agent) OpenOperations() []dataset.Operation {
	a.Helper()
	ops, err := record.OpenWork(record.NewTx(a.Ctx, a.Spy), a.ID)
	if err != nil {
		a.Fatalf("%v", err)
	}
	return ops
}

// MustRefusePlan expects a plan to be refused.
func (a *Agent) MustRefusePlan(req api.Request, kind *dataset.Kind, parts ...string) {
	a.Helper()
	p, err := a.Plan(a.Ctx, a.ID, req)
	if err == nil {
		a.Fatalf("%s %s %v was not refused: %+v", req.Kind, req.Volume, req.Options, p)
	}
	Refused(a, err, kind, parts...)
}

// facts are those of a node with its pools, a hundredth as free as the factor says.
func (a *Agent) facts(change func(*dataset.Facts)) dataset.Facts {
	f := dataset.Facts{Architecture: "x86_64", Kernel: "6.12.1", OS: "debian", CPUs: 4, MemoryTotal: 100 << 30, MemoryFree: 50 << 30, Load1: 20, Load10: 20, Load15: 20}
	for _, p := range a.LocalPools {
		f.Pools = append(f.Pools, dataset.PoolFacts{ID: p.ID, Name: p.Name, Backend: p.Backend, Online: true, Size: 1 << 40, Free: 1 << 39})
	}
	if change != nil {
		change(&f)
	}
	return f
}

// ReportFacts expects that facts are taken in, and returns those on record.
func (a *Agent) ReportFacts(change func(*dataset.Facts)) dataset.Facts {
	a.Helper()
	on, err := a.Facts(a.Ctx, a.ID, api.FactsReport{Incarnation: a.Incarnation, Facts: a.facts(change)})
	if err != nil {
		a.Fatalf("facts: %v", err)
	}
	return on
}

// ReportGuard says that the node's guard answers.
func (a *Agent) ReportGuard() {
	a.Helper()
	if err := a.Heartbeat(a.Ctx, a.ID, api.Heartbeat{Incarnation: a.Incarnation, Guard: true, Clock: a.Clock.Now()}); err != nil {
		a.Fatalf("heartbeat: %v", err)
	}
}

// ReportCurrentCopy says, with a heartbeat, that a node's copy of a dataset is that of a time, and had
// all until another, by its home's clock.
func (a *Agent) ReportCurrentCopy(d dataset.Dataset, taken, current time.Time) {
	a.Helper()
	a.ReportCopy(d, taken)
	c, _ := a.Reports.Copy(a.ID, d.ID)
	c.Current = current
	h := api.Heartbeat{Incarnation: a.Incarnation, Guard: true, Clock: a.Clock.Now(), Copies: []dataset.Copy{c}}
	if err := a.Heartbeat(a.Ctx, a.ID, h); err != nil {
		a.Fatalf("heartbeat: %v", err)
	}
}

// ReportPool says how a pool of the node is.
func (a *Agent) ReportPool(st dataset.PoolStatus) {
	a.Helper()
	if err := a.Heartbeat(a.Ctx, a.ID, api.Heartbeat{Incarnation: a.Incarnation, Guard: true, Clock: a.Clock.Now(), Pools: []dataset.PoolStatus{st}}); err != nil {
		a.Fatalf("heartbeat: %v", err)
	}
}

// ReportOnline has a node say how its pool is.
func (a *Agent) ReportOnline(online bool) {
	a.ReportPool(dataset.PoolStatus{ID: a.LocalPools[0].ID, Online: online})
}

// TryYield answers a recall as the agent of the home.
func (a *Agent) TryYield(op dataset.Operation, m *dataset.Manifest, holders ...string) error {
	return a.Yield(a.Ctx, a.ID, api.Yield{Incarnation: a.Incarnation, Operation: op.ID, Dataset: op.DatasetID, Epoch: op.Epoch, Manifest: m, Holders: holders})
}

func (a *Agent) MustRecall(op dataset.Operation) dataset.Operation {
	a.Helper()
	rec, err := a.Recall(a.Ctx, a.ID, a.ReportOf(op))
	if err != nil {
		a.Fatalf("recall for %s: %v", op.ID, err)
	}
	return rec
}

// ReportOpen says as the home of a dataset why it cannot open that; "": it can.
func (a *Agent) ReportOpen(d dataset.Dataset, problem string) {
	a.Helper()
	h := api.Heartbeat{Incarnation: a.Incarnation, Datasets: []dataset.DatasetStatus{{ID: d.ID, Problem: problem}}}
	if err := a.Heartbeat(a.Ctx, a.ID, h); err != nil {
		a.Fatalf("%v", err)
	}
}

// FoundDatasets is what lies beside the data of everything in a store.
func (a *Agent) FoundDatasets() (all []api.Found) {
	a.Helper()
	st := a.CheckInvariants()
	for _, d := range st.Datasets {
		f := api.Found{Pool: d.Pool, Dataset: d}
		for _, s := range st.Snapshots {
			if s.Dataset == d.ID {
				f.Snapshots = append(f.Snapshots, s)
			}
		}
		all = append(all, f)
	}
	return all
}

func (a *Agent) MustRebuild(found ...api.Found) map[uuid.UUID]api.Rebuilt {
	a.Helper()
	list, err := a.Rebuild(a.Ctx, a.ID, found)
	if err != nil || len(list) != len(found) {
		a.Fatalf("%d of %d: %v", len(list), len(found), err)
	}
	out := map[uuid.UUID]api.Rebuilt{}
	for _, r := range list {
		out[r.Dataset] = r
	}
	return out
}

// MustSeal makes a volume as an agent does that gives it a data key.
func (a *Agent) MustSeal(req api.Request, e dataset.Encryption) dataset.Dataset {
	a.Helper()
	op := a.MustPlan(req)
	op.Dataset.Encryption = &e
	return *a.MustCommit(op).Dataset
}

// ReportCopy says that the node has its copy of a dataset up to a snapshot.
func (a *Agent) ReportCopy(d dataset.Dataset, taken time.Time) {
	a.Helper()
	c := dataset.Copy{Dataset: d.ID, Node: a.ID, Epoch: d.Epoch, Snapshot: uuid.New(), Taken: taken}
	if err := a.Copied(a.Ctx, a.ID, api.Copied{Incarnation: a.Incarnation, Copy: c}); err != nil {
		a.Fatalf("copied: %v", err)
	}
}

func (a *Agent) MustCreateOnShare(name string) dataset.Dataset {
	a.Helper()
	op := a.MustPlan(api.Request{Kind: dataset.OpCreate, Volume: name, Options: map[string]string{"pool": "shared"}})
	return *a.MustCommit(op).Dataset
}

func (a *Agent) TryCommit(op dataset.Operation) error {
	_, err := a.Commit(a.Ctx, a.ID, a.ReportOf(op))
	return err
}

func (a *Agent) TrySubmit(req api.Request) error {
	_, err := a.Submit(a.Ctx, req)
	return err
}

func (a *Agent) MustSync(rev uint64) api.Sync {
	a.Helper()
	s, err := a.Sync(a.Ctx, a.ID, rev, 0)
	if err != nil {
		a.Fatalf("sync: %v", err)
	}
	return s
}
