package controltest

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/uuid"

	"github.com/droverhq/drover/control"
	"github.com/droverhq/drover/control/api"
	"github.com/droverhq/drover/control/controltest/expect"
	"github.com/droverhq/drover/control/housekeeping"
	"github.com/droverhq/drover/control/planning"
	"github.com/droverhq/drover/control/record"
	"github.com/droverhq/drover/control/store"
	"github.com/droverhq/drover/control/store/bolt"
	"github.com/droverhq/drover/control/uptime"
	"github.com/droverhq/drover/dataset"
	"github.com/droverhq/drover/internal/clock"
	"github.com/droverhq/drover/internal/pki"
)

// Dump is everything in the store, to see that nothing was changed.
func (e *Control) Dump() map[string]string {
	e.Helper()
	entries, err := e.Spy.Store.List(e.Ctx, "", "", 0)
	if err != nil {
		e.Fatalf("%v", err)
	}
	all := map[string]string{}
	for _, en := range entries {
		all[en.Key] = string(en.Value)
	}
	return all
}

// TB is what a test, a benchmark, a fuzz target and a rapid check have in common.
type TB = expect.TB

// Control is a service on a real store, with a clock that only the test moves and
// without background work: tests call its rounds.
type Control struct {
	TB
	*control.Service
	Ctx        context.Context
	Spy        *SpyStore
	Clock      *Clock
	ProfileSet *ProfileSet
	Memory     *housekeeping.Memory
	Registered []*Agent
	Failures   []error // of the background work
}

// Clock tells whoever wants to know that someone begins to wait.
type Clock struct {
	*clock.Fake
	Waiting chan struct{} // nil: nobody wants to know
}

func (c *Clock) After(d time.Duration) <-chan time.Time {
	ch := c.Fake.After(d)
	if c.Waiting != nil {
		c.Waiting <- struct{}{}
	}
	return ch
}

// Start is a Wednesday, noon.
var Start = time.Date(2026, 11, 18, 12, 0, 0, 0, time.UTC)

func New(t TB) *Control {
	t.Helper()
	e := &Control{TB: t, Ctx: context.Background(), Clock: &Clock{Fake: clock.NewFake(Start)}, ProfileSet: NewProfileSet()}
	e.Spy = NewSpyStore(OpenStore(t))
	e.Restart()
	t.Cleanup(func() { e.Service.Close() })
	return e
}

// Restart lets another service take over the store.
func (e *Control) Restart() {
	if e.Service != nil {
		e.Service.Close()
	}
	e.Service, _ = control.Assemble(control.Deps{
		Store: e.Spy, StoreName: "bolt", Clock: e.Clock, Version: "test",
		Profiles: func() planning.Profiles { return e.ProfileSet },
		Failed:   func(_ string, err error) { e.Failures = append(e.Failures, err) },
	})
	e.Memory = e.Housekeeper.NewMemory()
	if _, err := e.Uptime.Read(record.NewTx(context.Background(), e.Spy)); err != nil { // as keepHouse begins
		e.Fatalf("%v", err)
	}
	for _, a := range e.Registered {
		a.ReportDistrust("") // it is heard anew
	}
}

// OpenStore opens a new store. It lies in memory where it can: what a power cut
// leaves is the store's to test, and 30 times as many transactions go through.
func OpenStore(t TB) store.Store {
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

// NewAgent registers a node with a loop pool and then a dir pool.
func (e *Control) NewAgent(name string) *Agent {
	e.Helper()
	a := &Agent{Control: e, ID: uuid.New(), Incarnation: uuid.New()}
	a.LocalPools = []dataset.Pool{
		{ID: uuid.New(), Name: "fast", Backend: "loop", Path: "/" + name + "/fast", Reach: dataset.ReachNode, Capabilities: LoopCapabilities},
		{ID: uuid.New(), Name: "plain", Backend: "dir", Path: "/" + name + "/plain", Reach: dataset.ReachNode, Capabilities: DirCapabilities},
	}
	a.MustRegister(name)
	e.Registered = append(e.Registered, a)
	return a
}

// MustSubmit expects success.
func (e *Control) MustSubmit(req api.Request) api.Outcome {
	e.Helper()
	out, err := e.Submit(e.Ctx, req)
	if err != nil {
		e.Fatalf("submit %s %s: %v", req.Kind, req.Volume, err)
	}
	return out
}

func (e *Control) MustVolume(ref string) api.Volume {
	e.Helper()
	v, err := e.Volume(e.Ctx, ref)
	if err != nil {
		e.Fatalf("volume %s: %v", ref, err)
	}
	return v
}

// TrashTime is how long the profiles keep what was deleted.
func (e *Control) TrashTime() time.Duration { return 72 * time.Hour }

// round runs a round of the background work, as of now.
func (e *Control) Round() { e.Housekeeper.Round(e.Ctx, e.Memory, e.Clock.Now()) }

// CheckInvariants holds the store to what must be true between any two transactions: a
// name and its dataset point at each other, every index has exactly what it is
// of, leases agree with their datasets, and no key is left over.
func (e *Control) CheckInvariants() Records {
	e.Helper()
	entries, err := e.Spy.Store.List(e.Ctx, "", "", 0)
	if err != nil {
		e.Fatalf("%v", err)
	}
	st := Records{map[uuid.UUID]dataset.Dataset{}, map[uuid.UUID]dataset.Snapshot{}, map[uuid.UUID]dataset.Operation{}, map[uuid.UUID]dataset.Lease{}}
	got, want := map[string]any{}, map[string]any{}
	spent := map[uuid.UUID]map[uuid.UUID]bool{}
	for _, en := range entries {
		family, _, _ := strings.Cut(en.Key, "/")
		switch family {
		case "datasets":
			d := read[dataset.Dataset](e, en.Key, en.Value)
			st.Datasets[d.ID] = d
			indexDataset(want, d)
		case "snapshots":
			s := read[dataset.Snapshot](e, en.Key, en.Value)
			st.Snapshots[s.ID] = s
			indexSnapshot(want, s)
		case "operations":
			op := read[dataset.Operation](e, en.Key, en.Value)
			st.Operations[op.ID] = op
			if !op.State.Final() {
				want[record.WorkKey(op.Node, op.ID)] = record.Claim{ID: op.ID}
			}
			if op.State.Final() == op.Ended.IsZero() {
				e.Errorf("operation %s is %s and ended at %v", op.ID, op.State, op.Ended)
			}
		case "names", "snapnames", "home", "work", "guests":
			got[en.Key] = read[record.Claim](e, en.Key, en.Value)
		case "by-uuid":
			got[en.Key] = read[record.UUIDPointer](e, en.Key, en.Value)
		case "leases":
			l := read[dataset.Lease](e, en.Key, en.Value)
			st.leases[l.Dataset] = l
			l.Incarnation = uuid.Nil
			if d := st.Datasets[l.Dataset]; d.Move != uuid.Nil && l.State != dataset.LeaseHeld {
				l.State, l.Wanted, l.InUse = dataset.LeaseHeld, uuid.Nil, false
			}
			got[en.Key] = l
		case "copies":
			c := read[dataset.Copy](e, en.Key, en.Value)
			got[en.Key] = record.CopyKey(c.Node, c.Dataset)
			if spent[c.Dataset] == nil {
				spent[c.Dataset] = map[uuid.UUID]bool{}
			}
			spent[c.Dataset][c.Node] = c.Spent()
		case "trash":
			got[en.Key] = read[dataset.Trash](e, en.Key, en.Value)
		case "nodes", "pools", "facts", "cluster", "house", "tokens", "revoked", "rev", "live", "away":
		default:
			e.Errorf("nobody knows key %s", en.Key)
		}
	}
	if diff := cmp.Diff(want, got); diff != "" {
		e.Fatalf("the indexes are not those of the objects (- should be, + is):\n%s", diff)
	}
	for _, d := range st.Datasets {
		for _, n := range append(slices.Clone(d.Copies), d.Spent...) {
			if slices.Contains(d.Followers(), n) == spent[d.ID][n] {
				e.Fatalf("dataset %s says that of its copies %v those on %v are spent", d.ID, d.Copies, d.Spent)
			}
		}
		if op := st.Operations[d.Move]; d.Move != uuid.Nil && (op.State.Final() || op.DatasetID != d.ID || op.Epoch != d.Epoch) {
			e.Fatalf("dataset %s names move %+v, which is none of its epoch that goes on", d.ID, op)
		}
	}
	for _, s := range st.Snapshots {
		if _, ok := st.Datasets[s.Dataset]; !ok {
			e.Fatalf("snapshot %s of a dataset that is gone", s.ID)
		}
		for _, l := range st.Datasets[s.Dataset].Losses {
			if l.Forgotten && l.Of(s) {
				e.Fatalf("snapshot %s is lost, and on record", s.ID)
			}
		}
	}
	return st
}

// NewWithAuthority is an environment with an authority.
func NewWithAuthority(t *testing.T) (*Control, *pki.Authority) {
	t.Helper()
	e := New(t)
	ca, err := pki.Create(filepath.Join(t.TempDir(), "ca"), Start)
	if err != nil {
		t.Fatal(err)
	}
	e.Admission.Authority = func() (*pki.Authority, error) { return ca, nil }
	return e, ca
}

// MustMove takes a volume to a node, by the whole way.
func (e *Control) MustMove(volume string, from, to *Agent, name string) dataset.Dataset {
	e.Helper()
	op := *e.MustSubmit(Move(volume, name)).Operation
	to.MustRecall(op)
	if err := from.TryYield(op, Relinquished(op)); err != nil {
		e.Fatalf("yield: %v", err)
	}
	op.Manifest = Relinquished(op)
	return *to.MustCommit(op).Dataset
}

func (e *Control) MustOperation(id uuid.UUID) dataset.Operation {
	e.Helper()
	op, err := e.Operation(e.Ctx, id.String(), 0)
	if err != nil {
		e.Fatalf("%v", err)
	}
	return op
}

// spyFound is what lies in a node's pools of datasets that are its own.
func (e *Control) spyFound(n *Agent) []api.Found {
	all := n.FoundDatasets()
	all = slices.DeleteFunc(all, func(f api.Found) bool { return f.Dataset.Home != n.ID })
	for i := range all {
		all[i].Index = SeenIndex
	}
	return all
}

// WantReplicas adds a profile that keeps so many replicas.
func (e *Control) WantReplicas(n int) {
	p := e.ProfileSet.ByName["silver"]
	p.Name, p.Revision, p.Replicas = "safe", "r1-safe", dataset.Replicas{Count: n, Every: dataset.Duration(30 * time.Second)}
	e.ProfileSet.ByName["safe"] = p
}

func (e *Control) EditNode(a *Agent, change func(*dataset.Node)) {
	e.Helper()
	if _, err := e.Ledger.Update(e.Ctx, func(t *record.Tx) error {
		var n dataset.Node
		if _, err := t.Get(record.NodeKey(a.ID), &n); err != nil {
			return err
		}
		change(&n)
		return t.Put(record.NodeKey(a.ID), n)
	}); err != nil {
		e.Fatalf("%v", err)
	}
}

// Tick moves the clock to the next full quarter and runs a round.
// tick lets time pass of which only the last moment has a round.
func (e *Control) Tick(d time.Duration) {
	e.Helper()
	e.Pass(d)
	e.Round()
}

// Pass lets time pass in which nothing is done but to count it, where the store answers.
func (e *Control) Pass(d time.Duration) {
	e.Helper()
	for d > 0 {
		_ = e.Uptime.Mark(e.Ctx, true)
		step := min(d, uptime.MarkEvery)
		e.Clock.Advance(step)
		d -= step
	}
}

// NewAgentOnShare registers a node with a loop pool, and one on a share where that is not nil.
func (e *Control) NewAgentOnShare(name string, share uuid.UUID) *Agent {
	e.Helper()
	a := &Agent{Control: e, ID: uuid.New(), Incarnation: uuid.New()}
	a.LocalPools = []dataset.Pool{{ID: uuid.New(), Name: "fast", Backend: "loop", Path: "/" + name, Reach: dataset.ReachNode, Capabilities: LoopCapabilities}}
	if share != uuid.Nil {
		a.LocalPools = append(a.LocalPools, dataset.Pool{ID: uuid.New(), Name: "shared", Backend: "nfs", Path: "/mnt/" + name, Reach: dataset.ReachCluster, Share: share, Capabilities: shareCan})
	}
	a.MustRegister(name)
	e.Registered = append(e.Registered, a)
	return a
}

// EditDataset writes a dataset and its lease as no service would. A store that was restored or repaired may hold
// such records.
func (e *Control) EditDataset(id uuid.UUID, f func(d *dataset.Dataset, l *dataset.Lease)) {
	e.Helper()
	_, err := e.Ledger.Update(e.Ctx, func(t *record.Tx) error {
		d, err := t.Dataset(id)
		if err != nil {
			return err
		}
		l, err := t.Lease(d)
		if err != nil {
			return err
		}
		f(&d, &l)
		return errors.Join(t.Put(record.LeaseKey(id), l), t.PutDataset(d))
	})
	if err != nil {
		e.Fatalf("%v", err)
	}
}
