// Package handover_test tests the handover part of package move. It is a folder of its own, so that it runs beside the other tests.
package handover_test

import (
	"bytes"
	"context"
	"errors"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/sirupsen/logrus"
	logtest "github.com/sirupsen/logrus/hooks/test"

	"github.com/droverhq/drover/agent/agenttest"
	"github.com/droverhq/drover/agent/lease"
	"github.com/droverhq/drover/control/api"
	"github.com/droverhq/drover/control/store"
	"github.com/droverhq/drover/dataset"
	"github.com/droverhq/drover/internal/run"
	"github.com/droverhq/drover/test/assert"
	"github.com/droverhq/drover/test/fakes"
	"github.com/droverhq/drover/test/require"
)

// auto makes a volume on host-a with failover auto, and waits until host-b has its data.
func auto(f *agenttest.Cluster, spec, text string) dataset.Dataset {
	f.Helper()
	name, _, _ := strings.Cut(spec, "@")
	for _, h := range []*agenttest.Host{f.A, f.B} {
		agenttest.Await(f.T, h.Leases.Registrar.IsAnswering)
	}
	var d dataset.Dataset
	agenttest.Await(f.T, func() bool { // control knows the guards
		err := f.A.Create(f.Context(), spec, nil)
		d, _ = f.A.Cache.Volume(name)
		return err == nil
	})
	f.A.WriteFile(name, "token", text)
	since := time.Now()
	agenttest.Await(f.T, func() bool { c, kept := f.B.Replicas.Copy(d.ID); return kept && c.VerifiedAtHome.After(since) })
	return d
}

// switchedOff ends the agent of a host like a power-off: control gets no more messages from it.
func switchedOff(h *agenttest.Host) {
	h.Cluster.Helper()
	h.Mu.Lock()
	h.Off = true
	h.Mu.Unlock()
	h.Agent.Cancel()
	h.Stop()
}

// If the home of a volume is lost, a mount on another node continues from the copy there and has its data, once the
// home certainly writes no more.
func TestMountOnOtherNodeFailsOver(t *testing.T) {
	t.Parallel()
	const session = 2 * time.Second
	f := agenttest.NewBoundedCluster(t, session)
	d := auto(f, "db@auto", "kept")
	switchedOff(f.A)
	began := f.B.Clock.Steady()
	f.B.WantFile("db", "token", "kept")
	if took := f.B.Clock.Steady() - began; took < session {
		t.Errorf("it was opened %v after its home was heard last", took)
	}
	v := f.Recorded("db")
	if v.Home != f.B.Node() || v.Epoch != d.Epoch+1 || v.Move != uuid.Nil {
		t.Errorf("%+v", v.Dataset)
	}
	f.B.Leases.AllowPromises(t.Context())
	if left := f.B.Leases.Keeper.Blocked(); len(left) != 0 {
		t.Errorf("sworn off for ever: %v", left)
	}
}

// A holder that continues by promises is not superseded, and the error of a mount elsewhere names it. Once the holder
// asks for no more promises, the volume continues on the other node.
func TestI1NoFailoverWhilePromiseLasts(t *testing.T) {
	t.Parallel()
	const session = 2 * time.Second
	f := agenttest.NewBoundedCluster(t, session)
	d := auto(f, "db@auto", "kept")
	switchedOff(f.A)
	e := lease.Epoch{Dataset: d.ID, Epoch: d.Epoch}
	last := make(chan time.Duration, 1)
	stop := make(chan struct{})
	go func() { // the holder continues
		for {
			_, span := f.B.Leases.Deadlines.Session()
			got := f.B.Leases.Keeper.Grant(d.Home, lease.Request{Epochs: []lease.Epoch{e}}, span, func(e lease.Epoch) string { return f.B.Leases.WhyNotHome(d.Home, e) })
			at := f.B.Clock.Steady()
			select {
			case <-stop:
				last <- at
				return
			case <-time.After(session / 10):
			}
			if len(got.Granted) != 1 {
				t.Errorf("no promise to the holder: %+v", got)
			}
		}
	}()
	_, err := f.B.Mount(t.Context(), "db", "one")
	if dataset.KindOf(err) != dataset.ErrInUse || !strings.Contains(err.Error(), "open on node host-a, which is alive, but cut off from control") {
		t.Errorf("%v", err)
	}
	close(stop)
	asked := <-last
	f.B.MustMount("db", "two")
	if now := f.B.Clock.Steady(); now < asked+session {
		t.Errorf("opened %v after it was promised not to be", now-asked)
	}
	f.B.MustUnmount("db", "two")
}

// An agent that has just started opens nothing for as long as its predecessor may have promised not to.
func TestI1NoFailoverRightAfterStart(t *testing.T) {
	t.Parallel()
	const session = 3 * time.Second
	f := agenttest.NewBoundedCluster(t, session)
	auto(f, "db@auto", "kept")
	switchedOff(f.A)
	agenttest.Await(t, func() bool { // a forced move, so that there is nothing else to wait for
		_, err := f.Service.Fence(t.Context(), f.A.Node(), api.Fenced{Confirmed: true})
		return err == nil
	})
	f.B.Restart()
	started := f.B.Clock.Steady()
	f.B.MustMount("db", "one")
	if took := f.B.Clock.Steady() - started; took < session-200*time.Millisecond {
		t.Errorf("opened %v after its start", took)
	}
	f.B.MustUnmount("db", "one")
}

// The fence command of a profile runs on the node with the copy before the node takes over, with the name of the home
// as an argument. If the command fails everything stays as it is.
func TestFenceCommandRunsBeforeFailover(t *testing.T) {
	t.Parallel()
	f := agenttest.NewBoundedCluster(t, 3*time.Second)
	var works atomic.Bool
	c := &fakes.Recorder{Next: fakes.Run(func(_ context.Context, c run.Command) (run.Result, error) {
		if !works.Load() {
			return run.Result{}, &run.Error{Cmd: c.Name, Args: c.Args, ExitCode: 1, Err: errors.New("no such outlet")}
		}
		return run.Result{}, nil
	})}
	f.B.Programs.Runner = c
	d := auto(f, "db@cut", "kept")
	switchedOff(f.A)
	f.B.Programs.Allowed = []string{"/bin/false"}
	_, err := f.B.Mount(t.Context(), "db", "one")
	if err == nil || !strings.Contains(err.Error(), "program /bin/true: not listed in fence_programs of drover.yaml") || len(c.Calls()) != 0 {
		t.Errorf("%v, %+v", err, c.Calls())
	}
	warned := func() bool {
		list, err := f.B.Doctor(t.Context())
		require.NoError(t, err)
		return slices.ContainsFunc(list, func(l api.Finding) bool {
			return l.Level == api.LevelWarning && strings.Contains(l.Text, "(cut, shut) do not fail over to this node: program /bin/true: not listed in fence_programs")
		})
	}
	if !warned() {
		t.Error("doctor does not say that the program may not run here")
	}
	f.B.Programs.Allowed = []string{"/bin/true"}
	if warned() {
		t.Error("doctor says that the program may not run here")
	}
	_, err = f.B.Mount(t.Context(), "db", "one")
	if err == nil || !strings.Contains(err.Error(), "cannot fence its last home: ") || !strings.Contains(err.Error(), "no such outlet") || strings.Contains(err.Error(), "-f") {
		t.Errorf("%v", err) // this is recorded in the operation, where nobody may read the arguments of the program
	}
	if v := f.Recorded("db"); v.Home != d.Home || v.Epoch != d.Epoch {
		t.Errorf("%+v", v.Dataset)
	}
	works.Store(true)
	f.B.WantFile("db", "token", "kept")
	ran := c.Calls()
	if want := []string{"-f", "host-a", d.Home.String()}; len(ran) != 2 || ran[1].Name != "/bin/true" || !slices.Equal(ran[1].Args, want) {
		t.Errorf("%+v", ran)
	}
}

// outside is a control that registers no nodes once it is shut, and whose store was restored from a backup then.
type outside struct {
	api.Service
	shut  atomic.Bool
	asked atomic.Int32
}

func (o *outside) Register(ctx context.Context, r api.Registration) error {
	if !o.shut.Load() {
		return o.Service.Register(ctx, r)
	}
	o.asked.Add(1)
	return dataset.Errorf(dataset.ErrConflict, "pool default is node host-b's")
}

func (o *outside) Sync(ctx context.Context, node uuid.UUID, rev uint64, wait time.Duration) (api.Sync, error) {
	s, err := o.Service.Sync(ctx, node, rev, min(wait, 10*time.Millisecond))
	if o.shut.Load() {
		s.Full, s.Halted = true, "the store went back"
	}
	return s, err
}

// Doctor of a node that control refuses reports that as a problem, and so it does if another node does not trust the
// store. The reason for the refusal is logged once.
func TestDoctorReportsNodeThatControlRefuses(t *testing.T) {
	f := &agenttest.Cluster{T: t}
	f.StartControl()
	f.A = f.AddHost("host-a", "dir")
	o := &outside{Service: f.A.Config.Control}
	f.A.Config.Control = o
	log := logtest.NewLocal(f.A.Config.Log.(*logrus.Logger))
	t.Cleanup(f.Close)
	f.A.Start()
	o.shut.Store(true)
	agenttest.Await(t, func() bool { return o.asked.Load() >= 3 })
	list, err := f.A.Doctor(t.Context())
	for subject, text := range map[string]string{"control": "pool default is node host-b's", "store": "the store went back"} {
		if err != nil || !slices.ContainsFunc(list, func(l api.Finding) bool {
			return l.Level == api.LevelError && l.Subject == subject && strings.Contains(l.Text, text)
		}) {
			t.Errorf("nothing of %q: %+v, %v", text, list, err)
		}
	}
	said := slices.DeleteFunc(log.AllEntries(), func(e *logrus.Entry) bool { return !strings.Contains(e.Message, "does not register this node") })
	if len(said) != 1 {
		t.Errorf("logged %d times", len(said))
	}
}

// A host without a guard refuses a new use of a mounted volume with failover auto, and continues to run.
func TestUseOfBoundedVolumeWithoutGuardIsRefused(t *testing.T) {
	r := agenttest.New(t)
	d := r.NewVolume("db")
	r.MustMount("db", "first")
	d.Profile.Failover.Auto = true
	if !r.Cache.Apply(d, 0) {
		t.Fatal("the record was not applied")
	}
	if _, err := r.Mount(t.Context(), "db", "second"); !errors.Is(err, dataset.ErrUnsupported) {
		t.Errorf("the second use: %v", err)
	}
	agenttest.Await(t, func() bool { return !r.Jobs.IsRunning("guard/" + d.ID.String()) })
	r.WantUses(d, "first")
	r.MustUnmount("db", "first")
}

// losing is a control that records that a node has relinquished a dataset. Then its store is replaced by a backup, and
// the node gets no reply.
type losing struct {
	api.Service
	f      *agenttest.Cluster
	backup []store.Entry
	lost   atomic.Bool
}

func (l *losing) Yield(ctx context.Context, node uuid.UUID, y api.Yield) (err error) {
	if y.Manifest == nil {
		return l.Service.Yield(ctx, node, y)
	}
	if l.lost.Load() {
		return l.Service.Yield(ctx, node, y)
	}
	if err = l.Service.Yield(ctx, node, y); err == nil {
		err = restore(ctx, l.f.ControlStore, l.backup)
	}
	assert.NoErrorf(l.f, err, "the answer was not recorded")
	l.lost.Store(true)
	return dataset.Errorf(dataset.ErrUnavailable, "the reply was lost")
}

// restore gives a store the entries of a backup, and no others. Entries of sessions stay.
func restore(ctx context.Context, s store.Store, backup []store.Entry) error {
	now, err := s.List(ctx, "", "", 0)
	if err != nil {
		return err
	}
	values := map[string][]byte{}
	for _, e := range backup {
		values[e.Key] = e.Value
	}
	var writes []store.Write
	for _, e := range now {
		value, kept := values[e.Key]
		delete(values, e.Key)
		if !strings.HasPrefix(e.Key, store.LivePrefix) && (!kept || !bytes.Equal(value, e.Value)) {
			writes = append(writes, store.Write{Key: e.Key, Value: value, Delete: !kept})
		}
	}
	for key, value := range values {
		if !strings.HasPrefix(key, store.LivePrefix) {
			writes = append(writes, store.Write{Key: key, Value: value})
		}
	}
	_, err = s.Txn(ctx, nil, writes)
	return err
}

// Control records the answer of the home to a move, but the reply is lost, and so is the store: it is replaced by a
// backup of before the move. Another node may have opened the next epoch, so the home does not open its own again.
func TestI1LostReplyThenRestoredStore(t *testing.T) {
	t.Parallel()
	f := agenttest.NewCluster(t, "loop", "loop")
	d := f.A.NewVolume("db", nil)
	f.A.WriteFile("db", "token", "kept")
	f.A.Stop()
	l := &losing{Service: f.A.Config.Control, f: f}
	f.A.Config.Control = l
	f.A.Start()
	var err error
	if l.backup, err = f.ControlStore.List(t.Context(), "", "", 0); err != nil {
		t.Fatal(err)
	}
	f.BeginMove("db", f.B)
	agenttest.Await(t, l.lost.Load)
	agenttest.Await(t, func() bool {
		y, relinquished := f.A.Leases.Relinquished(d.ID)
		return y.Reported || !relinquished
	})
	y, relinquished := f.A.Leases.Relinquished(d.ID)
	if !relinquished || y.Epoch != d.Epoch || y.Manifest == nil {
		t.Errorf("the epoch may be opened again: %+v", y)
	}
	if _, err := f.A.Mount(t.Context(), "db", "one"); err == nil {
		t.Error("it is mounted at an epoch that may have ended")
	}
}

func TestMain(m *testing.M) { agenttest.Main(m) }
