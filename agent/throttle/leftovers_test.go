package throttle_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/uuid"
	"golang.org/x/sys/unix"

	"github.com/droverhq/drover/agent/agenttest"
	"github.com/droverhq/drover/agent/host"
	"github.com/droverhq/drover/agent/lease"
	"github.com/droverhq/drover/agent/mounting"
	"github.com/droverhq/drover/agent/throttle"
	"github.com/droverhq/drover/backends"
	"github.com/droverhq/drover/control/api"
	"github.com/droverhq/drover/dataset"
	"github.com/droverhq/drover/guard"
	"github.com/droverhq/drover/internal/clock"
	"github.com/droverhq/drover/internal/linux/fsctl"
	"github.com/droverhq/drover/internal/linux/iolimit"
	"github.com/droverhq/drover/test/assert"
	"github.com/droverhq/drover/test/require"
)

// immutable makes a file of a hierarchy refuse writes, until the end of the test or a call of undo.
func immutable(t *testing.T, path ...string) (undo func()) {
	t.Helper()
	f, err := os.Open(filepath.Join(path...))
	if err == nil {
		err = fsctl.SetImmutable(f, true)
	}
	require.NoError(t, err)
	undo = sync.OnceFunc(func() {
		assert.NoError(t, errors.Join(fsctl.SetImmutable(f, false), f.Close()))
	})
	t.Cleanup(undo)
	return undo
}

const v1Write = "blkio.throttle.write_bps_device"

// A limit that cannot be removed together with the device is not set again, and the next start removes it.
func TestLeftoverLimitIsRemovedLater(t *testing.T) {
	f := limitedBy(t, files(t, iolimit.V1, "/"))
	h := f.A.Throttle.Hierarchy
	d := f.A.NewVolume("db@slow", nil)
	f.A.MustMount("db", "one")
	dev := device(f.A, d)
	undo := immutable(t, h.Dir, v1Write)
	f.A.MustUnmount("db", "one")
	for _, what := range []string{"unmounted", "the next agent"} {
		wantTold(f.A, dev, slowly, what)
		if n := len(f.A.Throttle.All()); n > 0 {
			t.Errorf("%s: %d datasets are limited that are not mounted", what, n)
		}
		f.A.Restart()
	}
	undo()
	f.A.Restart()
	wantTold(f.A, dev, iolimit.Limits{}, "tried again")
}

// If a mount fails after a part of the limit was set, that part is removed as well.
func TestPartlySetLimitIsRemoved(t *testing.T) {
	f := limitedBy(t, files(t, iolimit.V1, "/"))
	h := f.A.Throttle.Hierarchy
	f.A.NewVolume("db@slow", nil)
	undo := immutable(t, h.Dir, "blkio.throttle.read_bps_device") // this file is written second
	if _, err := f.A.Mount(t.Context(), "db", "one"); err == nil {
		t.Fatal("mounted without a limit")
	}
	undo()
	b, err := os.ReadFile(filepath.Join(h.Dir, v1Write))
	if err != nil || !strings.HasSuffix(string(b), " 0") {
		t.Errorf("told %q, %v", b, err)
	}
	f.A.MustMount("db", "one")
	f.A.MustUnmount("db", "one")
}

// A volume gets a device number on which an earlier limit was left, and the record of that limit is lost. The volume
// has its configured speed from the first moment, or no limit.
func TestDeviceDoesNotInheritOldLimit(t *testing.T) {
	f := limitedBy(t, files(t, iolimit.V1, "/"))
	h := f.A.Throttle.Hierarchy
	for _, spec := range []string{"other@free", "db@slow"} {
		var all strings.Builder
		for n := range 64 {
			all.WriteString(iolimit.Device{Major: 7, Minor: uint32(n)}.String() + " 1000\n")
		}
		require.NoError(t, os.WriteFile(filepath.Join(h.Dir, v1Write), []byte(all.String()), 0o600))
		d := f.A.NewVolume(spec, nil)
		f.A.MustMount(d.Volume, "one")
		wantTold(f.A, device(f.A, d), throttle.LimitsOf(d.Profile.QoS), spec)
		f.A.MustUnmount(d.Volume, "one")
	}
}

// otherLoop returns the number of an existing loop device that is not the given one: the kernel limits no device that
// does not exist.
func otherLoop(t *testing.T, but uint32) uint32 {
	t.Helper()
	for n := range uint32(256) {
		if _, err := os.Stat(fmt.Sprintf("/sys/block/loop%d", n)); err == nil && n != but {
			return n
		}
	}
	t.Fatal("there is no other loop device")
	return 0
}

// A dataset that somebody else has unmounted gets another device, and the first one has no limit.
func TestLimitOfPreviousDeviceIsRemoved(t *testing.T) {
	f := limitFlock(t)
	h := f.A.Throttle.Hierarchy
	d := f.A.NewVolume("db@slow", nil)
	path := f.A.MustMount("db", "one")
	dev := device(f.A, d)
	before := iolimit.Device{Major: 7, Minor: otherLoop(t, dev.Minor)}
	e := f.A.Throttle.Get(d.ID)
	e.Mu.Lock()
	e.Record.Device = before
	e.Mu.Unlock()
	require.NoError(t, errors.Join(h.Clear(iolimit.Root, dev), h.Set(iolimit.Root, before, slowly), unix.Unmount(path, 0)))
	f.A.MustMount("db", "two")
	wantTold(f.A, device(f.A, d), slowly, "mounted again")
	if device(f.A, d) != before {
		wantTold(f.A, before, iolimit.Limits{}, "the device before")
	}
	f.A.MustUnmount("db", "one")
	f.A.MustUnmount("db", "two")
	wantTold(f.A, before, iolimit.Limits{}, "unmounted, the device before")
}

// A limit that cannot be set is retried without intervention. Meanwhile doctor and the volume's status report that.
func TestFailedLimitIsRetriedAndReported(t *testing.T) {
	h := files(t, iolimit.V2, "/")
	f := limitedBy(t, h)
	f.A.Config.Cgroups.Parents = []string{"/absent.slice"}
	f.A.Restart()
	d := f.A.NewVolume("db@free", nil)
	f.A.MustMount("db", "one")
	if _, err := f.Service.Submit(t.Context(), api.Request{ID: uuid.New(), Kind: dataset.OpUpdate, Volume: "db", Profile: "slow"}); err != nil {
		t.Fatal(err)
	}
	const not = "cannot throttle it as its profile requires: none of the control groups"
	f.AwaitNamed("missed", func() bool { return f.A.Throttle.Failure(d.ID) != nil })
	if !hasFinding(f.A, not) {
		t.Error("doctor does not say so")
	}
	now, _ := f.A.Cache.Dataset(d.ID)
	if st := f.A.Status.Status(t.Context(), now); !strings.Contains(st.Problem, not) {
		t.Errorf("status: %q", st.Problem)
	}
	if wait := f.A.Throttle.Pause(); wait == 0 || wait > throttle.RetryEvery {
		t.Errorf("it is tried again in %s", wait)
	}
	require.NoError(t, os.Mkdir(filepath.Join(h.Dir, "absent.slice"), 0o755))
	require.NoError(t, os.WriteFile(filepath.Join(h.Dir, "absent.slice/io.max"), nil, 0o600))
	f.A.Throttle.Renew() // as every half minute
	f.AwaitNamed("limited", func() bool {
		got, err := h.Get("/absent.slice", device(f.A, d))
		return err == nil && got == slowly && f.A.Throttle.Failure(d.ID) == nil
	})
	f.A.MustUnmount("db", "one")
}

// If the controller was withdrawn, the limit of a strict profile is restored. Meanwhile, and while the volume is used
// in a group where the limit has no effect, the volume has a problem.
func TestStrictLimitHoldsOrIsReported(t *testing.T) {
	h := files(t, iolimit.V2, "/", "system.slice", "docker", "user.slice/mine")
	f := limitedBy(t, h)
	d := f.A.NewVolume("db@strict", nil)
	f.A.MustMount("db", "one")
	dev := device(f.A, d)
	problem := func() string { return f.A.Status.Status(t.Context(), d).Problem }
	if p := problem(); p != "" {
		t.Errorf("kept, and %q", p)
	}
	// As the kernel does when systemd withdraws the controller.
	require.NoError(t, os.Remove(filepath.Join(h.Dir, "docker/io.max")))
	if p := problem(); !strings.Contains(p, "has qos strict") || !strings.Contains(p, "/docker") || !hasFinding(f.A, "in the control groups /docker") {
		t.Errorf("taken back: %q", p)
	}
	f.AwaitNamed("handed down", func() bool {
		b, err := os.ReadFile(filepath.Join(h.Dir, "cgroup.subtree_control"))
		return err == nil && string(b) == "+io"
	})
	// As the kernel does when the controller is delegated.
	require.NoError(t, os.WriteFile(filepath.Join(h.Dir, "docker/io.max"), nil, 0o600))
	f.AwaitNamed("held again", func() bool { got, err := h.Get("/docker", dev); return err == nil && got == slowly && problem() == "" })

	e := f.A.Throttle.Get(d.ID)
	e.Mu.Lock()
	rec := e.Record
	rec.Groups = throttle.Union(rec.Groups, []string{"/user.slice/mine"})
	err := f.A.Throttle.SetRules(t.Context(), e, rec)
	e.Mu.Unlock()
	require.NoError(t, err)
	const out = "its profile has qos strict, and it is used in control group /user.slice/mine"
	if p := problem(); !strings.Contains(p, out) || !hasFinding(f.A, out) {
		t.Errorf("used outside: %q", p)
	}
	f.A.MustUnmount("db", "one")
}

// hurried is a clock that advances ten seconds with each call.
type hurried struct {
	clock.System
	now *time.Duration
}

func (h hurried) Steady() time.Duration {
	*h.now += 10 * time.Second
	return *h.now
}

// A volume that is written faster than its disk accepts the data is flushed for as long as its limit may be suspended,
// and no longer. Then it is copied without a freeze, and with its limit.
func TestLimitIsLiftedOnlyDuringFlush(t *testing.T) {
	f := limitFlock(t)
	d := f.A.NewVolume("db@slow", nil)
	f.A.MustMount("db", "one")
	dev := device(f.A, d)
	var now time.Duration
	m := *f.A.Mounts
	m.Host = &host.Host{Root: f.A.Root, Clock: hurried{now: &now}, Cache: f.A.Cache, Log: f.A.Log, Jobs: f.A.Jobs}
	in, end, err := (&mounting.Quiescer{Mounts: &m}).Prepare(t.Context(), f.A.Pool(), d)
	require.NoError(t, err)
	if now > throttle.WriteOutTime+30*time.Second { // each look at the clock takes ten seconds
		t.Errorf("it was tried until %s", now)
	}
	take := func() error { wantTold(f.A, dev, slowly, "while it is copied"); return nil }
	if exact, err := backends.Frozen(in, take); exact || err != nil || end() {
		t.Errorf("exact %v, %v", exact, err)
	}
	f.A.MustUnmount("db", "one")
}

// While the guard fences a dataset it lifts the limit, and nobody sets the limit again: not the check for missing
// limits, nor a start, nor the end of a snapshot. That is also true if the dataset may be open here again while the
// guard's flush continues, or if that is not known.
func TestLimitIsNotSetDuringFence(t *testing.T) {
	f, says := toldFlock(t)
	d, held := guarded(f, "db")
	dev := device(f.A, d)
	f.A.Leases.Deadlines.SetRegistered(d.ID, d.Epoch)
	look := func() error { (&throttle.GroupScanner{Throttler: f.A.Throttle}).Scan(0, false); return nil }
	// The first: because of the deadline that the agent knows.
	for _, state := range []guard.State{guard.StateArmed, guard.StateFencing, guard.StateFenced, ""} {
		if state == guard.StateFencing { // from here on it may be open here
			heldUntil(f, held, f.A.Clock.Steady()+time.Hour)
		}
		says.say(d.ID, state)
		for what, act := range map[string]func() error{
			"a look":    look,
			"a start":   func() error { return f.A.Throttle.Load(t.Context()) },
			"a profile": func() error { return f.A.Throttle.Limit(t.Context(), held) },
			"the end of a snapshot": func() error {
				up, err := f.A.Throttle.Suspend(held, time.Hour)
				up.Resume()
				return err
			},
		} {
			require.NoError(t, f.A.Throttle.Hierarchy.Clear(iolimit.Root, dev))
			if err := act(); err != nil && state != "" {
				t.Errorf("%q, %s: %v", state, what, err)
			}
			// Wait for the end of the job.
			if _, err := f.A.Jobs.Do(t.Context(), "limit/"+d.ID.String(), "", func(context.Context, *host.Job) error { return nil }); err != nil {
				t.Error(err)
			}
			wantTold(f.A, dev, iolimit.Limits{}, string(state)+", "+what)
		}
	}
	says.say(d.ID, guard.StateArmed)
	require.NoError(t, look())
	wantTold(f.A, dev, slowly, "thawed")
	f.A.Leases.Deadlines.ClearRegistered(d.ID)
	f.A.Cache.Apply(d, 0)
	f.A.MustUnmount("db", "one")
	f.A.Cache.Apply(held, 0)
	f.A.Stop() // a stopping agent sets the limits again that it has lifted
	if fencing, err := f.A.Leases.Registrar.FencingCheck()(d.ID); fencing || err != nil {
		t.Errorf("of an agent that has stopped: %t, %v", fencing, err)
	}
}

// toldGuard is a guard that reports the state of a dataset that the test set, and does nothing.
type toldGuard struct {
	lease.Guard
	mu    sync.Mutex
	e     guard.Entry
	asked int
}

// toldFlock returns a cluster whose first host has such a guard.
func toldFlock(t *testing.T) (*agenttest.Cluster, *toldGuard) {
	t.Helper()
	f, says := limitFlock(t), &toldGuard{}
	f.A.Config.Guard = says
	f.A.Restart()
	return f, says
}

// guarded mounts a volume with a limit on that host. held is its record on that host by then: that of a volume that
// the guard may have.
func guarded(f *agenttest.Cluster, name string) (d, held dataset.Dataset) {
	f.Helper()
	d = f.A.NewVolume(name+"@slow", nil)
	f.A.MustMount(name, "one")
	held = d
	held.Profile.Failover.Auto = true
	f.A.Cache.Apply(held, 0)
	return d, held
}

// heldUntil lets a dataset be open at host a until a deadline, as if its agent had restarted and the guard had it.
func heldUntil(f *agenttest.Cluster, d dataset.Dataset, deadline time.Duration) {
	e := guard.Entry{State: guard.StateArmed, Boot: f.A.Boot, Bound: f.A.Leases.Deadlines.FenceTime(d.ID)}
	e.Dataset, e.Epoch, e.Deadline = d.ID, d.Epoch, deadline
	f.A.Leases.Deadlines.Inherit(guard.Status{Datasets: []guard.Entry{e}})
}

// say sets the state that the guard reports. If it is empty the guard does not answer.
func (g *toldGuard) say(id uuid.UUID, state guard.State) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.e.Dataset, g.e.State = id, state
}

func (g *toldGuard) Status(ctx context.Context) (guard.Status, error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.asked++
	if ctx.Err() != nil {
		return guard.Status{}, ctx.Err()
	}
	if g.e.State == "" && g.e.Dataset != uuid.Nil {
		return guard.Status{}, agenttest.ErrUnreachable
	}
	return guard.Status{Datasets: []guard.Entry{g.e}}, nil
}

func (g *toldGuard) Feed(context.Context, []guard.Feed) (map[uuid.UUID]error, error) {
	return nil, agenttest.ErrUnreachable
}

// Check is called by the repair of a dataset whose deadline has passed, as on a loaded machine.
func (g *toldGuard) Check(context.Context, uuid.UUID, uint64) (guard.Entry, error) {
	return guard.Entry{}, agenttest.ErrUnreachable
}

func (g *toldGuard) Register(context.Context, guard.Registration) (guard.Entry, error) {
	return guard.Entry{}, agenttest.ErrUnreachable
}

func (g *toldGuard) Thaw(context.Context, uuid.UUID, uint64, time.Duration) (guard.Entry, error) {
	return guard.Entry{}, agenttest.ErrUnreachable
}

func (g *toldGuard) Release(context.Context, uuid.UUID, uint64) error { return nil }
