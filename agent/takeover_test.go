package agent

import (
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

	"github.com/droverhq/drover/agent/findings"
	"github.com/droverhq/drover/agent/promise"
	"github.com/droverhq/drover/control/api"
	"github.com/droverhq/drover/dataset"
	"github.com/droverhq/drover/internal/run"
)

// auto makes a volume on host-a that fails over, and waits until host-b has what is in it.
func (f *flock) auto(spec, text string) dataset.Dataset {
	f.Helper()
	name, _, _ := strings.Cut(spec, "@")
	for _, h := range []*flockHost{f.a, f.b} {
		await(f.T, h.registrar.IsAnswering)
	}
	var d dataset.Dataset
	await(f.T, func() bool { // control has heard of the guards
		err := f.a.Create(f.Context(), spec, nil)
		d, _ = f.a.Cache.Volume(name)
		return err == nil
	})
	f.a.writes(name, "token", text)
	since := time.Now()
	await(f.T, func() bool { c, kept := f.b.replicas.Copy(d.ID); return kept && c.Current.After(since) })
	return d
}

// switchedOff has a host's agent end as a host does that is switched off: control hears no more.
func (h *flockHost) switchedOff() {
	h.f.Helper()
	h.mu.Lock()
	h.off = true
	h.mu.Unlock()
	h.Agent.stop()
	h.down()
}

// A mount on another node of a volume whose home is lost comes up from the copy there, with
// what was in that, once the home surely writes no more.
func TestFailoverAtAMount(t *testing.T) {
	t.Parallel()
	const session = 2 * time.Second
	f := newBounded(t, session)
	d := f.auto("db@auto", "kept")
	f.a.switchedOff()
	began := f.b.Clock.Steady()
	if got := f.b.reads("db", "token"); got != "kept" {
		t.Errorf("it goes on with %q", got)
	}
	if took := f.b.Clock.Steady() - began; took < session {
		t.Errorf("it was opened %v after its home was heard last", took)
	}
	v := f.record("db")
	if v.Home != f.b.Node() || v.Epoch != d.Epoch+1 || v.Move != uuid.Nil {
		t.Errorf("%+v", v.Dataset)
	}
	f.b.promises.Unswear(t.Context())
	if left := f.b.keeper.Sworn(); len(left) != 0 {
		t.Errorf("sworn off for ever: %v", left)
	}
}

// A holder that goes on by promises is not overtaken, and the mount elsewhere says who it is;
// once it asks no more, the volume goes on.
func TestI1NoFailoverPastAPromise(t *testing.T) {
	t.Parallel()
	const session = 2 * time.Second
	f := newBounded(t, session)
	d := f.auto("db@auto", "kept")
	f.a.switchedOff()
	e := promise.Epoch{Dataset: d.ID, Epoch: d.Epoch}
	last := make(chan time.Duration, 1)
	stop := make(chan struct{})
	go func() { // the holder, as it goes on
		for {
			_, span := f.b.Standing()
			got := f.b.keeper.Grant(d.Home, promise.Request{Epochs: []promise.Epoch{e}}, span, func(e promise.Epoch) string { return f.b.promises.NotHome(d.Home, e) })
			at := f.b.Clock.Steady()
			select {
			case <-stop:
				last <- at
				return
			case <-time.After(session / 10):
			}
			if len(got.Granted) != 1 {
				t.Errorf("no promise for who holds it: %+v", got)
			}
		}
	}()
	_, err := f.b.Mount(t.Context(), "db", "one")
	if dataset.KindOf(err) != dataset.ErrInUse || !strings.Contains(err.Error(), "open on node host-a, which is alive, but cut off from control") {
		t.Errorf("%v", err)
	}
	close(stop)
	asked := <-last
	f.b.mounts("db", "two")
	if now := f.b.Clock.Steady(); now < asked+session {
		t.Errorf("opened %v after it was promised not to be", now-asked)
	}
	f.b.unmounts("db", "two")
}

// An agent that was just started opens nothing for as long as one before it may have
// promised not to.
func TestI1NoFailoverAfterAStart(t *testing.T) {
	t.Parallel()
	const session = 3 * time.Second
	f := newBounded(t, session)
	f.auto("db@auto", "kept")
	f.a.switchedOff()
	await(t, func() bool { // a person's word, so that nothing else is to be waited for
		_, err := f.svc.Fence(t.Context(), f.a.Node(), api.Fenced{Confirmed: true})
		return err == nil
	})
	f.b.again()
	started := f.b.Clock.Steady()
	f.b.mounts("db", "one")
	if took := f.b.Clock.Steady() - started; took < session-200*time.Millisecond {
		t.Errorf("opened %v after its start", took)
	}
	f.b.unmounts("db", "one")
}

// The fence command of a profile runs where the copy is, before it takes over, with the name
// of the home; one that fails leaves everything as it is.
func TestFenceCommand(t *testing.T) {
	t.Parallel()
	f := newBounded(t, 3*time.Second)
	var works atomic.Bool
	c := &run.Recorder{Next: run.Func(func(_ context.Context, c run.Command) (run.Result, error) {
		if !works.Load() {
			return run.Result{}, &run.Error{Cmd: c.Name, Args: c.Args, ExitCode: 1, Err: errors.New("no such outlet")}
		}
		return run.Result{}, nil
	})}
	f.b.programs.Runner = c
	d := f.auto("db@cut", "kept")
	f.a.switchedOff()
	f.b.programs.Allowed = []string{"/bin/false"}
	_, err := f.b.Mount(t.Context(), "db", "one")
	if err == nil || !strings.Contains(err.Error(), "program /bin/true: fence_programs in drover.yaml") || len(c.Calls()) != 0 {
		t.Errorf("%v, %+v", err, c.Calls())
	}
	warned := func() bool {
		list, err := f.b.Doctor(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		return slices.ContainsFunc(list, func(l api.Finding) bool {
			return l.Level == findings.Warning && strings.Contains(l.Text, "(cut, shut) do not fail over to this node: program /bin/true: fence_programs")
		})
	}
	if !warned() {
		t.Error("doctor does not say that the program may not run here")
	}
	f.b.programs.Allowed = []string{"/bin/true"}
	if warned() {
		t.Error("doctor says that the program may not run here")
	}
	_, err = f.b.Mount(t.Context(), "db", "one")
	if err == nil || !strings.Contains(err.Error(), "not certain to be cut off") || !strings.Contains(err.Error(), "no such outlet") || strings.Contains(err.Error(), "-f") {
		t.Errorf("%v", err) // which stands in the operation; what the program is given is nobody's to read there
	}
	if v := f.record("db"); v.Home != d.Home || v.Epoch != d.Epoch {
		t.Errorf("%+v", v.Dataset)
	}
	works.Store(true)
	if got := f.b.reads("db", "token"); got != "kept" {
		t.Errorf("%q", got)
	}
	ran := c.Calls()
	if want := []string{"-f", "host-a", d.Home.String()}; len(ran) != 2 || ran[1].Name != "/bin/true" || !slices.Equal(ran[1].Args, want) {
		t.Errorf("%+v", ran)
	}
}

// halted is a control under which nothing fails over.
type halted struct{ api.Service }

func (halted) Failover(context.Context) (api.FailoverState, error) {
	return api.FailoverState{Halted: "2 nodes vanished", Since: time.Unix(0, 0)}, nil
}

// Doctor says that nothing fails over, and why, on every host of a cluster.
func TestDoctorOfAHalt(t *testing.T) {
	f := &flock{T: t}
	f.serve()
	f.a = f.host("host-a", "dir")
	f.a.cfg.Control = halted{f.a.cfg.Control}
	t.Cleanup(f.close)
	f.a.up()
	list, err := f.a.Doctor(t.Context())
	said := slices.ContainsFunc(list, func(l api.Finding) bool {
		return l.Level == findings.Error && l.Subject == "failover" && strings.Contains(l.Text, "since 1970-01-01T00:00:00Z: 2 nodes vanished")
	})
	if err != nil || !said {
		t.Errorf("%+v, %v", list, err)
	}
}

// outside is a control that takes no node in any more, once it is shut, and whose store went
// back then.
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

// Doctor of a node that control refuses does not call that well, nor a store that another node
// does not believe; and why control refuses is logged once.
func TestDoctorOutside(t *testing.T) {
	f := &flock{T: t}
	f.serve()
	f.a = f.host("host-a", "dir")
	o := &outside{Service: f.a.cfg.Control}
	f.a.cfg.Control = o
	log := logtest.NewLocal(f.a.cfg.Log.(*logrus.Logger))
	t.Cleanup(f.close)
	f.a.up()
	o.shut.Store(true)
	await(t, func() bool { return o.asked.Load() >= 3 })
	list, err := f.a.Doctor(t.Context())
	for subject, text := range map[string]string{"control": "pool default is node host-b's", "store": "the store went back"} {
		if err != nil || !slices.ContainsFunc(list, func(l api.Finding) bool {
			return l.Level == findings.Error && l.Subject == subject && strings.Contains(l.Text, text)
		}) {
			t.Errorf("nothing of %q: %+v, %v", text, list, err)
		}
	}
	said := slices.DeleteFunc(log.AllEntries(), func(e *logrus.Entry) bool { return !strings.Contains(e.Message, "does not take this node in") })
	if len(said) != 1 {
		t.Errorf("logged %d times", len(said))
	}
}
