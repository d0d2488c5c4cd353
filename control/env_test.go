package control

import (
	"context"
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"
	"go.uber.org/goleak"

	"github.com/droverhq/drover/control/api"
	"github.com/droverhq/drover/control/controltest/expect"
	"github.com/droverhq/drover/control/housekeeping"
	"github.com/droverhq/drover/control/planning"
	"github.com/droverhq/drover/control/record"
	"github.com/droverhq/drover/control/store"
	"github.com/droverhq/drover/control/store/bolt"
	"github.com/droverhq/drover/dataset"
	"github.com/droverhq/drover/internal/clock"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// tb is what a test, a benchmark, a fuzz target and a rapid check have in common.
type tb = expect.TB

// env is a service on a real store, with a clock that only the test moves and
// without background work: tests call its rounds.
type env struct {
	tb
	*Service
	ctx      context.Context
	spy      *spy
	clock    *testClock
	profiles *profileSet
	house    *housekeeping.Memory
	agents   []*agent
	failures []error // of the background work
}

// testClock tells whoever wants to know that someone begins to wait.
type testClock struct {
	*clock.Fake
	begun chan struct{} // nil: nobody wants to know
}

func (c *testClock) After(d time.Duration) <-chan time.Time {
	ch := c.Fake.After(d)
	if c.begun != nil {
		c.begun <- struct{}{}
	}
	return ch
}

// someday is a Wednesday, noon.
var someday = time.Date(2026, 11, 18, 12, 0, 0, 0, time.UTC)

func newEnv(t tb) *env {
	t.Helper()
	e := &env{tb: t, ctx: context.Background(), clock: &testClock{Fake: clock.NewFake(someday)}, profiles: newProfiles()}
	e.spy = newSpy(openStore(t))
	e.restart()
	t.Cleanup(func() { e.Service.Close() })
	return e
}

// restart lets another service take over the store.
func (e *env) restart() {
	if e.Service != nil {
		e.Service.Close()
	}
	e.Service, _ = Assemble(Deps{
		Store: e.spy, StoreName: "bolt", Clock: e.clock, Version: "test",
		Profiles: func() planning.Profiles { return e.profiles },
		Failed:   func(_ string, err error) { e.failures = append(e.failures, err) },
	})
	e.house = e.Housekeeper.NewMemory()
	if _, err := e.Uptime.Read(record.NewTx(context.Background(), e.spy)); err != nil { // as keepHouse begins
		e.Fatalf("%v", err)
	}
	for _, a := range e.agents {
		a.distrust("") // it is heard anew
	}
}

// useStore has the service use another store, such as one that counts or fails.
func (s *Service) useStore(st store.Store) { s.Ledger.Store = st }

// openStore opens a new store. It lies in memory where it can: what a power cut
// leaves is the store's to test, and 30 times as many transactions go through.
func openStore(t tb) store.Store {
	t.Helper()
	parent := "/dev/shm"
	if _, err := os.Stat(parent); err != nil {
		parent = ""
	}
	dir, err := os.MkdirTemp(parent, "drover-control-")
	if err != nil {
		t.Fatalf("%v", err)
	}
	t.Cleanup(func() {
		if err := os.RemoveAll(dir); err != nil {
			t.Errorf("%v", err)
		}
	})
	st, err := bolt.Open(context.Background(), filepath.Join(dir, "store.db"), bolt.Options{Clock: clock.System{}})
	if err != nil {
		t.Fatalf("%v", err)
	}
	t.Cleanup(func() {
		if err := st.Close(); err != nil {
			t.Errorf("%v", err)
		}
	})
	return st
}

// profileSet stands for profiles.yaml.
type profileSet struct {
	byName map[string]dataset.Profile
}

func newProfiles() *profileSet {
	trash := dataset.OnDelete{Mode: dataset.DeleteTrash, Trash: dataset.Duration(72 * time.Hour)}
	keep := dataset.Keep{Last: 4, Hourly: 24}
	p := &profileSet{byName: map[string]dataset.Profile{}}
	for _, x := range []dataset.Profile{
		{Name: "bronze", OnDelete: trash, Quiesce: dataset.QuiesceNone},
		{Name: "silver", Size: 10 * dataset.GiB, Snapshots: dataset.Snapshots{Required: true}, OnDelete: trash},
		{Name: "gold", Size: 20 * dataset.GiB, Filesystem: dataset.Filesystem{Type: "xfs"}, Quiesce: dataset.QuiesceFreeze,
			Snapshots: dataset.Snapshots{Required: true, Schedule: "*/15 * * * *", Keep: keep}, OnDelete: trash},
		{Name: "fleeting", OnDelete: dataset.OnDelete{Mode: dataset.DeletePurge}},
		{Name: "kept", OnDelete: dataset.OnDelete{Mode: dataset.DeleteKeep}},
	} {
		x.Revision = "r1-" + x.Name
		p.byName[x.Name] = x
	}
	return p
}

func (p *profileSet) Get(name string) (dataset.Profile, error) {
	if name == "" {
		name = "bronze"
	}
	if x, ok := p.byName[name]; ok {
		return x.Clone(), nil
	}
	var have []string
	for n := range p.byName {
		have = append(have, n)
	}
	return dataset.Profile{}, dataset.Errorf(dataset.ErrInvalid, "unknown profile %q (have: %s)", dataset.Clip(name), dataset.Have(have))
}

func (p *profileSet) All() (all []dataset.Profile) {
	for _, x := range p.byName {
		all = append(all, x)
	}
	return all
}

// agent stands for the agent of one node: it plans, does nothing, and reports.
type agent struct {
	*env
	id, incarnation uuid.UUID
	pools           []dataset.Pool
}

var (
	loopCan = dataset.Capabilities{
		EnforcesSize: true, InstantSnapshot: true, CloneIndependent: true, OnlineGrow: true, OwnFilesystem: true,
		Delta: true, Filesystems: []string{"xfs", "ext4"},
	}
	dirCan   = dataset.Capabilities{CloneIndependent: true}
	shareCan = dataset.Capabilities{CloneIndependent: true, ManyHosts: true}
)

// agent registers a node with a loop pool and then a dir pool.
func (e *env) agent(name string) *agent {
	e.Helper()
	a := &agent{env: e, id: uuid.New(), incarnation: uuid.New()}
	a.pools = []dataset.Pool{
		{ID: uuid.New(), Name: "fast", Backend: "loop", Path: "/" + name + "/fast", Reach: dataset.ReachNode, Capabilities: loopCan},
		{ID: uuid.New(), Name: "plain", Backend: "dir", Path: "/" + name + "/plain", Reach: dataset.ReachNode, Capabilities: dirCan},
	}
	a.register(name)
	e.agents = append(e.agents, a)
	return a
}

func (a *agent) register(name string) {
	a.Helper()
	err := a.Register(a.ctx, api.Registration{Node: dataset.Node{ID: a.id, Name: name, Incarnation: a.incarnation, Does: []dataset.OpKind{dataset.OpRekey, dataset.OpRewrite}}, Pools: a.pools})
	if err != nil {
		a.Fatalf("register %s: %v", name, err)
	}
	a.distrust("")
}

func (a *agent) report(op dataset.Operation) api.Report {
	return api.Report{Incarnation: a.incarnation, Operation: op}
}

// plan expects an operation.
func (a *agent) plan(req api.Request) dataset.Operation {
	a.Helper()
	p, err := a.Plan(a.ctx, a.id, req)
	if err != nil {
		a.Fatalf("plan %s %s: %v", req.Kind, req.Volume, err)
	}
	if p.Operation == nil || p.Done != nil {
		a.Fatalf("plan %s %s: nothing to do", req.Kind, req.Volume)
	}
	return *p.Operation
}

// commit expects success.
func (a *agent) commit(op dataset.Operation) api.Committed {
	a.Helper()
	out, err := a.Commit(a.ctx, a.id, a.report(op))
	if err != nil {
		a.Fatalf("commit %s %s: %v", op.Kind, op.Volume, err)
	}
	a.agrees(out)
	return out
}

// agrees checks that an answer has what is on record at its index: the agent takes nothing
// else for that any more.
func (a *agent) agrees(out api.Committed) {
	a.Helper()
	if out.Dataset == nil {
		return
	}
	st := a.Ledger.Store
	if a.spy != nil {
		st = a.spy.Store // what is read for this does not count
	}
	e, err := st.Get(a.ctx, record.DatasetKey(out.Dataset.ID))
	if err != nil || e.Index != out.Index {
		return
	}
	if said, err := json.Marshal(out.Dataset); err != nil || string(said) != string(e.Value) {
		a.Errorf("at index %d the answer has\n%s, %v, and the record\n%s", out.Index, said, err, e.Value)
	}
}

// do plans and commits.
func (a *agent) do(req api.Request) api.Committed {
	a.Helper()
	return a.commit(a.plan(req))
}

func (a *agent) create(spec string, options ...string) dataset.Dataset {
	a.Helper()
	out := a.do(create(spec, options...))
	if out.Lost || out.Dataset == nil {
		a.Fatalf("create %s: %+v", spec, out)
	}
	return *out.Dataset
}

func (a *agent) snapshot(volume, name string) dataset.Snapshot {
	a.Helper()
	op := a.plan(api.Request{Kind: dataset.OpSnapshot, Volume: volume, Name: name})
	a.commit(op)
	s, err := a.Snapshot(a.ctx, "", op.Snapshot.ID.String())
	if err != nil {
		a.Fatalf("snapshot of %s: %v", volume, err)
	}
	return s
}

func (a *agent) delete(volume string) dataset.Dataset {
	a.Helper()
	return *a.do(api.Request{Kind: dataset.OpDelete, Volume: volume}).Dataset
}

// purge reports that what is condemned is gone, as agents do by themselves.
func (a *agent) purge(d dataset.Dataset) {
	a.Helper()
	a.commit(dataset.Operation{
		ID: uuid.NewSHA1(d.ID, []byte("purge")), Kind: dataset.OpPurge, Node: a.id,
		Volume: d.Volume, DatasetID: d.ID, Epoch: d.Epoch, State: dataset.OpPending,
	})
}

// work carries out everything that is on record for the node.
func (a *agent) work() {
	a.Helper()
	s, err := a.Sync(a.ctx, a.id, 0, 0)
	if err != nil {
		a.Fatalf("sync: %v", err)
	}
	for _, op := range s.Operations {
		a.commit(op)
	}
}

// open returns the operations on record for the node that are not final.
func (a *agent) open() []dataset.Operation {
	a.Helper()
	ops, err := record.OpenWork(record.NewTx(a.ctx, a.spy), a.id)
	if err != nil {
		a.Fatalf("%v", err)
	}
	return ops
}

func create(spec string, options ...string) api.Request {
	req := api.Request{Kind: dataset.OpCreate, Volume: spec}
	for _, o := range options {
		k, v, _ := strings.Cut(o, "=")
		if req.Options == nil {
			req.Options = map[string]string{}
		}
		req.Options[k] = v
	}
	return req
}

// submit expects success.
func (e *env) submit(req api.Request) api.Outcome {
	e.Helper()
	out, err := e.Submit(e.ctx, req)
	if err != nil {
		e.Fatalf("submit %s %s: %v", req.Kind, req.Volume, err)
	}
	return out
}

func (e *env) volume(ref string) api.Volume {
	e.Helper()
	v, err := e.Volume(e.ctx, ref)
	if err != nil {
		e.Fatalf("volume %s: %v", ref, err)
	}
	return v
}

// trashTime is how long the profiles keep what was deleted.
func (e *env) trashTime() time.Duration { return 72 * time.Hour }

// round runs a round of the background work, as of now.
func (e *env) rounds() { e.Housekeeper.Round(e.ctx, e.house, e.clock.Now()) }

// refused expects an error of a kind, in one short line that says each part.
func refused(t tb, err error, kind *dataset.Kind, parts ...string) {
	t.Helper()
	expect.Refusal(t, err, kind, parts...)
}

// planned expects a plan to be refused.
func (a *agent) planned(req api.Request, kind *dataset.Kind, parts ...string) {
	a.Helper()
	p, err := a.Plan(a.ctx, a.id, req)
	if err == nil {
		a.Fatalf("%s %s %v was not refused: %+v", req.Kind, req.Volume, req.Options, p)
	}
	refused(a, err, kind, parts...)
}

// no returns a pointer to false, yes to true.
func no() *bool  { return new(bool) }
func yes() *bool { b := true; return &b }
