package controltest

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/google/uuid"

	"github.com/droverhq/drover/control"
	"github.com/droverhq/drover/control/api"
	"github.com/droverhq/drover/control/controltest/expect"
	"github.com/droverhq/drover/control/housekeeping"
	"github.com/droverhq/drover/control/record"
	"github.com/droverhq/drover/control/store"
	"github.com/droverhq/drover/control/store/bolt"
	"github.com/droverhq/drover/dataset"
	"github.com/droverhq/drover/internal/clock"
	"github.com/droverhq/drover/internal/pki"
	"github.com/droverhq/drover/test/assert"
	"github.com/droverhq/drover/test/fakes"
	"github.com/droverhq/drover/test/require"
)

// TB is the common part of a test, a benchmark, a fuzz target and a rapid check.
type TB = expect.TB

// Control is a service on a real store. Only the test moves its clock. It has no background work: a test runs single
// rounds.
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

// Start is the time at which the clock of a test begins: a Wednesday, noon.
var Start = time.Date(2026, 11, 18, 12, 0, 0, 0, time.UTC)

// New returns a service on a new store, with the profiles of NewProfileSet.
func New(t TB) *Control {
	t.Helper()
	e := &Control{
		TB:         t,
		Ctx:        context.Background(),
		Spy:        NewSpyStore(OpenStore(t)),
		Clock:      &Clock{Clock: fakes.NewClock(Start)},
		ProfileSet: NewProfileSet(),
	}
	e.Restart()
	t.Cleanup(func() { e.Service.Close() })
	return e
}

// OneNode returns a service with a node "alpha".
func OneNode(t TB) (*Control, *Agent) {
	t.Helper()
	e := New(t)
	return e, e.NewAgent("alpha")
}

// TwoNodes returns a service with the nodes "alpha" and "beta".
func TwoNodes(t TB) (*Control, *Agent, *Agent) {
	t.Helper()
	e := New(t)
	return e, e.NewAgent("alpha"), e.NewAgent("beta")
}

// OK fails the test if the last result of a call is an error, as in e.OK(e.Fence(e.Ctx, id, f)).
func (e *Control) OK(results ...any) {
	e.Helper()
	if err, _ := results[len(results)-1].(error); err != nil {
		e.Fatalf("%v", err)
	}
}

// MustRefuse submits a request that must be refused. See Refused.
func (e *Control) MustRefuse(req api.Request, kind *dataset.Kind, parts ...string) {
	e.Helper()
	_, err := e.Submit(e.Ctx, req)
	Refused(e, err, kind, parts...)
}

// NewWithAuthority returns a service with a certificate authority.
func NewWithAuthority(t *testing.T) (*Control, *pki.Authority) {
	t.Helper()
	e := New(t)
	ca, err := pki.Create(filepath.Join(t.TempDir(), "ca"), Start)
	require.NoError(t, err)
	e.Admission.Authority = func() (*pki.Authority, error) { return ca, nil }
	return e, ca
}

// Restart closes the service and starts another one on the same store. The agents report to the new one.
func (e *Control) Restart() {
	if e.Service != nil {
		e.Service.Close()
	}
	e.Service, _ = control.Assemble(control.Deps{
		Store: e.Spy, StoreName: "bolt", Clock: e.Clock, Version: "test",
		Profiles: func() control.Profiles { return e.ProfileSet },
		Failed:   func(_ string, err error) { e.Failures = append(e.Failures, err) },
	})
	e.Memory = e.Housekeeper.NewMemory()
	if _, err := e.Uptime.RunTime(record.NewTx(context.Background(), e.Spy)); err != nil { // as Housekeeper.Run begins
		e.Fatalf("%v", err)
	}
	for _, a := range e.Registered {
		a.ReportDistrust("") // the new service has not heard from the agent
	}
}

// OpenStore opens a new store. Its file is in memory if the machine has /dev/shm, because 30 times as many transactions
// are committed there in a second. Package bolt tests what a power cut leaves.
func OpenStore(t TB) store.Store {
	t.Helper()
	parent := "/dev/shm"
	if _, err := os.Stat(parent); err != nil {
		parent = ""
	}
	dir, err := os.MkdirTemp(parent, "drover-control-")
	require.NoError(t, err)
	t.Cleanup(func() {
		assert.NoError(t, os.RemoveAll(dir))
	})
	st, err := bolt.Open(context.Background(), filepath.Join(dir, "store.db"), bolt.Options{Clock: clock.System{}})
	require.NoError(t, err)
	t.Cleanup(func() {
		assert.NoError(t, st.Close())
	})
	return st
}

// Clock is a fake clock that sends to Waiting each time a goroutine begins to wait for it.
type Clock struct {
	*fakes.Clock
	Waiting chan struct{} // may be nil
}

// After is clock.Clock.After.
func (c *Clock) After(d time.Duration) <-chan time.Time {
	ch := c.Clock.After(d)
	if c.Waiting != nil {
		c.Waiting <- struct{}{}
	}
	return ch
}

// NewAgent registers a node with a loop pool and a dir pool, in this order.
func (e *Control) NewAgent(name string) *Agent {
	e.Helper()
	return e.newAgent(name, loopPool("/"+name+"/fast"), dataset.Pool{
		ID: uuid.New(), Name: "plain", Backend: "dir", Path: "/" + name + "/plain",
		Reach: dataset.ReachNode, Capabilities: DirCapabilities,
	})
}

func (e *Control) newAgent(name string, pools ...dataset.Pool) *Agent {
	e.Helper()
	a := &Agent{Control: e, ID: uuid.New(), Incarnation: uuid.New(), LocalPools: pools}
	a.MustRegister(name)
	e.Registered = append(e.Registered, a)
	return a
}

func loopPool(path string) dataset.Pool {
	return dataset.Pool{
		ID: uuid.New(), Name: "fast", Backend: "loop", Path: path,
		Reach: dataset.ReachNode, Capabilities: LoopCapabilities,
	}
}

// MustSubmit submits a request that must succeed.
func (e *Control) MustSubmit(req api.Request) api.Outcome {
	e.Helper()
	out, err := e.Submit(e.Ctx, req)
	require.NoErrorf(e, err, "submit %s %s", req.Kind, req.Volume)
	return out
}

// MustVolume returns a volume that must exist.
func (e *Control) MustVolume(ref string) api.Volume {
	e.Helper()
	v, err := e.Volume(e.Ctx, ref)
	require.NoErrorf(e, err, "volume %s", ref)
	return v
}

// TrashTime is how long the profiles keep deleted volumes.
func (e *Control) TrashTime() time.Duration { return 72 * time.Hour }

// Round runs one round of the background work, at the present time.
func (e *Control) Round() { e.Housekeeper.Round(e.Ctx, e.Memory, e.Clock.Now()) }

// MustMove moves a volume to a node: request, recall, yield and commit.
func (e *Control) MustMove(volume string, from, to *Agent, name string) dataset.Dataset {
	e.Helper()
	op := *e.MustSubmit(Move(volume, name)).Operation
	to.MustRecall(op)
	require.NoErrorf(e, from.TryYield(op, Relinquished(op)), "yield")
	op.Manifest = Relinquished(op)
	return *to.MustCommit(op).Dataset
}

// MustOperation returns an operation that must be recorded.
func (e *Control) MustOperation(id uuid.UUID) dataset.Operation {
	e.Helper()
	op, err := e.Operation(e.Ctx, id.String(), 0)
	e.OK(err)
	return op
}

// AddReplicaProfile adds the profile "safe", which keeps n replicas.
func (e *Control) AddReplicaProfile(n int) {
	p := e.ProfileSet.ByName["silver"]
	p.Name, p.Revision = "safe", "r1-safe"
	p.Replicas = dataset.Replicas{Count: n, Every: dataset.Duration(30 * time.Second)}
	e.ProfileSet.ByName["safe"] = p
}

// EditNode changes the record of a node.
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

// AdvanceAndRun advances the clock, and then runs one round of the background work.
func (e *Control) AdvanceAndRun(d time.Duration) {
	e.Helper()
	e.AdvanceClock(d)
	e.Round()
}

// AdvanceClock advances the clock. Meanwhile the service counts its running time, if the store answers, and does no
// other work.
func (e *Control) AdvanceClock(d time.Duration) {
	e.Helper()
	for d > 0 {
		_ = e.Uptime.Mark(e.Ctx, true)
		step := min(d, record.MarkInterval)
		e.Clock.Advance(step)
		d -= step
	}
}

// NewAgentOnShare registers a node with a loop pool and, unless share is nil, a pool on that share.
func (e *Control) NewAgentOnShare(name string, share uuid.UUID) *Agent {
	e.Helper()
	pools := []dataset.Pool{loopPool("/" + name)}
	if share != uuid.Nil {
		pools = append(pools, dataset.Pool{
			ID: uuid.New(), Name: "shared", Backend: "nfs", Path: "/mnt/" + name,
			Reach: dataset.ReachCluster, Share: share, Capabilities: ShareCapabilities,
		})
	}
	return e.newAgent(name, pools...)
}

// EditDataset writes a dataset and its lease as no service would. A store that was restored or repaired may contain
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
	e.OK(err)
}
