package lease_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/uuid"

	"github.com/droverhq/drover/agent/agenttest"
	"github.com/droverhq/drover/control/api"
	"github.com/droverhq/drover/control/store"
	"github.com/droverhq/drover/dataset"
	"github.com/droverhq/drover/guard"
	"github.com/droverhq/drover/internal/clock"
	"github.com/droverhq/drover/internal/linux/mount"
	"github.com/droverhq/drover/test/assert"
	"github.com/droverhq/drover/test/require"
)

func setProfile(volume, profile string) api.Request {
	return api.Request{ID: uuid.New(), Kind: dataset.OpUpdate, Volume: volume, Profile: profile}
}

// newManual creates a volume with failover manual on host-a, with a replica on host-b.
func newManual(g *agenttest.Bounded, name string) dataset.Dataset {
	g.Helper()
	d := g.A.NewVolume(name+"@hand", nil)
	agenttest.Await(g.T, func() bool { _, kept := g.B.Replicas.Copy(d.ID); return kept })
	return d
}

// mustSetProfile sets the profile of a volume, and waits for the end of the operation.
func mustSetProfile(g *agenttest.Bounded, volume, profile string) {
	g.Helper()
	var out api.Outcome
	agenttest.Await(g.T, func() bool { // control learns of the guards with the reports
		var err error
		out, err = g.Service.Submit(g.Context(), setProfile(volume, profile))
		return err == nil
	})
	if op := g.AwaitEnd(*out.Operation); op.State != dataset.OpDone {
		g.Fatalf("set-profile of volume %s to %s: %+v", volume, profile, op.Problem)
	}
	if v := g.Recorded(volume); v.Profile.Name != profile {
		g.Fatalf("%+v", v.Dataset)
	}
}

// A mounted volume gets failover auto: from then on the guard fences it when its lease lapses, and the other host takes
// over. With failover manual again, the guard forgets it, and it is not fenced while the host is cut off.
func TestI1SetProfileToAutoAndBack(t *testing.T) {
	t.Parallel()
	g := agenttest.NewBounded(t)
	d := newManual(g, "db")
	path := g.A.MustMount("db", "user")
	if _, there := g.GuardA.Entry(d.ID); there {
		t.Fatal("the guard has a volume with failover manual")
	}
	mustSetProfile(g, "db", "auto")
	if e, there := g.GuardA.Entry(d.ID); !there || e.State != guard.StateArmed || e.Epoch != d.Epoch || e.Filesystem.Root == "" {
		t.Fatalf("failover auto is recorded, and the guard does not watch the mount: %t, %+v", there, e)
	}
	agenttest.Await(t, func() bool { return !g.A.Leases.Deadlines.Marks.Has(d.ID) })

	mustSetProfile(g, "db", "hand")
	agenttest.Await(t, func() bool { // the agent feeds the guard until then
		e, there := g.GuardA.Entry(d.ID)
		if there && e.State != guard.StateArmed {
			t.Fatalf("a volume that has failover manual now is fenced: %+v", e)
		}
		return !there
	})
	g.LinkA.Cut()
	g.Network.SetCut(true)
	long := clock.Boottime() + 2*agenttest.BoundSession
	agenttest.Await(t, func() bool { return clock.Boottime() > long })
	if _, there := g.GuardA.Entry(d.ID); there || !agenttest.CanWrite(t, path, time.Minute) {
		t.Error("a volume with failover manual is fenced")
	}
	g.LinkA.Mend()
	g.Network.SetCut(false)

	mustSetProfile(g, "db", "auto")
	g.LinkA.Cut()
	g.Network.SetCut(true)
	g.GuardA.AwaitFenced(d.ID)
	if agenttest.CanWrite(t, path, 100*time.Millisecond) {
		t.Error("a fenced volume is written to")
	}
	agenttest.Await(t, func() bool { _, err := g.B.Mount(g.Context(), "db", "other"); return err == nil })
	if v := g.Recorded("db"); v.Home != g.B.Node() || v.Epoch != d.Epoch+1 {
		t.Errorf("%+v", v.Dataset)
	}
	g.B.MustUnmount("db", "other")
	g.LinkA.Mend()
	g.Network.SetCut(false)
	g.A.AwaitSettled(d.ID)
	AwaitForgotten(g.GuardA, d.ID)
	g.A.MustUnmount("db", "user")
}

// cutAfterUpdate is a link that is cut when control has recorded an update, before the agent learns of that.
type cutAfterUpdate struct {
	*agenttest.Link
	mu  sync.Mutex
	cut bool
}

func (c *cutAfterUpdate) isCut() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.cut
}

func (c *cutAfterUpdate) Commit(ctx context.Context, node uuid.UUID, r api.Report) (api.Committed, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	out, err := c.Link.Commit(ctx, node, r)
	if err == nil && r.Operation.Kind == dataset.OpUpdate && !c.cut {
		c.cut = true
		c.Link.Cut()
		return api.Committed{}, dataset.Errorf(dataset.ErrUnavailable, "the answer is lost")
	}
	return out, err
}

// Sync does not return an answer that arrived while the link was cut.
func (c *cutAfterUpdate) Sync(ctx context.Context, node uuid.UUID, rev uint64, wait time.Duration) (api.Sync, error) {
	was := c.isCut()
	s, err := c.Link.Sync(ctx, node, rev, wait)
	if err == nil && c.isCut() != was {
		return api.Sync{}, dataset.Errorf(dataset.ErrUnavailable, "the answer is lost")
	}
	return s, err
}

// Control records failover auto, and its answer is lost. The home, restarted without control, opens the volume only
// with a bounded lease, although the record on its disk still has failover manual.
func TestI1SetProfileWhoseAnswerIsLost(t *testing.T) {
	t.Parallel()
	g := agenttest.NewBounded(t)
	d := newManual(g, "db")
	once := &cutAfterUpdate{Link: g.LinkA}
	g.A.Config.Control = once
	g.A.Restart()
	agenttest.Await(t, func() bool { // control learns of the guards with the reports
		_, err := g.Service.Submit(g.Context(), setProfile("db", "auto"))
		return err == nil
	})
	agenttest.Await(t, func() bool { return g.Recorded("db").Profile.Failover.Auto })
	agenttest.Await(t, once.isCut)
	g.A.Restart()
	if now, _ := g.A.Cache.Dataset(d.ID); now.Profile.Failover.Auto || !g.A.Leases.Deadlines.IsBounded(now) {
		t.Fatalf("the lease is not bounded: %+v", now)
	}
	if path, err := g.A.Mount(g.Context(), "db", "user"); !errors.Is(err, dataset.ErrUnavailable) {
		t.Errorf("mounted at %s, and another node may have taken it over: %v", path, err)
	}
	g.LinkA.Mend()
	agenttest.Await(t, func() bool { _, err := g.A.Mount(g.Context(), "db", "user"); return err == nil })
	agenttest.Await(t, func() bool {
		now, _ := g.A.Cache.Dataset(d.ID)
		return now.Profile.Failover.Auto && !g.A.Leases.Deadlines.Marks.Has(d.ID)
	})
	if e, there := g.GuardA.Entry(d.ID); !there || e.State != guard.StateArmed {
		t.Errorf("%t, %+v", there, e)
	}
	g.A.MustUnmount("db", "user")
}

// A host whose guard fences too slowly refuses failover auto. Nothing is registered, and the volume keeps its profile.
func TestSetProfileOnHostWithSlowGuard(t *testing.T) {
	t.Parallel()
	g := agenttest.NewBounded(t)
	d := newManual(g, "db")
	path := g.A.MustMount("db", "user")
	g.GuardA.Stop()
	g.GuardA.Step = agenttest.BoundSession
	g.GuardA.Start()
	var out api.Outcome
	agenttest.Await(t, func() bool {
		var err error
		out, err = g.Service.Submit(g.Context(), setProfile("db", "auto"))
		return err == nil
	})
	op := g.AwaitEnd(*out.Operation)
	if op.State != dataset.OpFailed || op.Problem.Code != dataset.ErrUnsupported.Code || !strings.Contains(op.Problem.Message, "--step") {
		t.Errorf("%s, %+v", op.State, op.Problem)
	}
	if v := g.Recorded("db"); v.Profile.Name != "hand" || v.Profile.Failover.Auto {
		t.Errorf("%+v", v.Profile)
	}
	if _, there := g.GuardA.Entry(d.ID); there || g.A.Leases.Deadlines.Marks.Has(d.ID) || !agenttest.CanWrite(t, path, time.Minute) {
		t.Errorf("registered: %t", there)
	}
	g.A.MustUnmount("db", "user")
}

// The agent of the home ends between two steps of the change to failover auto. The next one completes it, and the
// volume stays mounted.
func TestI1SetProfileInterrupted(t *testing.T) {
	t.Parallel()
	g := agenttest.NewBounded(t)
	for _, act := range []string{"guard register", "guard check"} {
		name := strings.ReplaceAll(act, " ", "-")
		d := newManual(g, name)
		path := g.A.MustMount(name, "user")
		agenttest.Await(t, func() bool { // control knows the guards
			_, err := g.Service.Submit(g.Context(), api.Request{
				ID: uuid.New(), Kind: dataset.OpUpdate, Volume: name, Profile: "auto", DryRun: true,
			})
			return err == nil
		})
		gone := g.A.DieAfter(act, 1)
		out, err := g.Service.Submit(g.Context(), setProfile(name, "auto"))
		require.NoError(t, err)
		agenttest.AwaitDeath(t, gone)
		if g.Recorded(name).Profile.Failover.Auto {
			t.Errorf("%s: recorded already", act)
		}
		g.A.Restart()
		if op := g.AwaitEnd(*out.Operation); op.State != dataset.OpDone || !g.Recorded(name).Profile.Failover.Auto {
			t.Errorf("%s: %s, %+v", act, op.State, op.Problem)
		}
		if e, there := g.GuardA.Entry(d.ID); !there || e.State != guard.StateArmed || !agenttest.CanWrite(t, path, time.Minute) {
			t.Errorf("%s: %t, %+v", act, there, e)
		}
		agenttest.Await(t, func() bool { return !g.A.Leases.Deadlines.Marks.Has(d.ID) })
		g.A.MustUnmount(name, "user")
		AwaitForgotten(g.GuardA, d.ID)
	}
}

// A set-profile has given a fenced volume failover manual, and the agent ended before the guard forgot the volume. No
// volume of the host has failover auto. The restarted agent neither thaws nor unmounts the volume behind the guard's
// back, whether or not it has a recorded use.
func TestI1RestartKeepsFenceOfManualVolume(t *testing.T) {
	t.Parallel()
	for _, used := range []bool{true, false} {
		t.Run(fmt.Sprintf("used=%t", used), func(t *testing.T) {
			t.Parallel()
			g := agenttest.NewBounded(t)
			d := g.NewReplicated("db")
			path := g.A.MustMount("db@auto", "user")
			g.LinkA.Cut()
			g.Network.SetCut(true)
			g.GuardA.AwaitFenced(d.ID)
			g.A.Stop()
			before := mountIDOf(t, path)
			setManual(t, g.A, d)
			if !used {
				drop := []store.Write{{Key: "mounts/" + d.ID.String(), Delete: true}}
				_, err := g.A.Database.Txn(t.Context(), nil, drop)
				require.NoError(t, err)
			}
			g.A.Start()
			if d, _ := g.A.Cache.Dataset(d.ID); d.Profile.Failover.Auto {
				t.Fatal("the record has failover auto")
			}
			e, _ := g.GuardA.Entry(d.ID)
			if e.State != guard.StateFenced || e.Breaches > 0 || mountIDOf(t, path) != before {
				t.Errorf("the restarted agent has unmounted the fenced dataset: %+v", e)
			} else if agenttest.CanWrite(t, path, 100*time.Millisecond) {
				t.Errorf("the restarted agent has thawed the fenced dataset: %+v", e)
			}
			g.LinkA.Mend()
			g.Network.SetCut(false)
			agenttest.Await(t, func() bool { e, there := g.GuardA.Entry(d.ID); return !there || e.State == guard.StateArmed })
			if used {
				g.A.MustUnmount("db@auto", "user")
			}
		})
	}
}

// mountIDOf returns the kernel's ID of the mount on a path, or 0 if nothing is mounted there.
func mountIDOf(t *testing.T, path string) int {
	t.Helper()
	table, err := mount.Table()
	require.NoError(t, err)
	if e := table.At(path); e != nil {
		return e.ID
	}
	return 0
}

// setManual changes the record of a dataset on the disk of a stopped agent to failover manual, with the same index.
func setManual(t *testing.T, h *agenttest.Host, d dataset.Dataset) {
	t.Helper()
	key := "volumes/" + d.ID.String()
	entry, err := h.Database.Get(t.Context(), key)
	require.NoError(t, err)
	var record api.IndexedDataset
	if err := json.Unmarshal(entry.Value, &record); err != nil || !record.Dataset.Profile.Failover.Auto {
		t.Fatalf("%v: %s", err, entry.Value)
	}
	record.Dataset.Profile.Failover.Auto = false
	value, err := json.Marshal(record)
	if err == nil {
		_, err = h.Database.Txn(t.Context(), nil, []store.Write{{Key: key, Value: value}})
	}
	require.NoError(t, err)
}

// heldUpdates is a link that reports no update to control until release is closed.
type heldUpdates struct {
	*agenttest.Link
	release chan struct{}
}

func (h heldUpdates) Commit(ctx context.Context, node uuid.UUID, r api.Report) (api.Committed, error) {
	if r.Operation.Kind == dataset.OpUpdate && r.Operation.Problem == nil {
		<-h.release
	}
	return h.Link.Commit(ctx, node, r)
}

// mustSubmit submits a change of the profile of a volume to one with failover auto.
func mustSubmit(g *agenttest.Bounded, volume, profile string) (op dataset.Operation) {
	g.Helper()
	agenttest.Await(g.T, func() bool { // control learns of the guards with the reports
		out, err := g.Service.Submit(g.Context(), setProfile(volume, profile))
		if err == nil {
			op = *out.Operation
		}
		return err == nil
	})
	return op
}

// Two requests give a mounted volume failover auto. The second one fails, because the first one came before, and
// because the host has no watchdog. The guard keeps watching the mount.
func TestI1SecondSetProfileKeepsTheGuard(t *testing.T) {
	t.Parallel()
	g := agenttest.NewBounded(t)
	d := newManual(g, "db")
	held := heldUpdates{g.LinkA, make(chan struct{})}
	g.A.Config.Control = held
	g.A.Restart()
	path := g.A.MustMount("db", "user")
	first := mustSubmit(g, "db", "auto")
	agenttest.Await(t, func() bool { return g.A.Leases.Deadlines.Marks.Has(d.ID) })
	second := mustSubmit(g, "db", "dog")
	close(held.release)
	if op := g.AwaitEnd(first); op.State != dataset.OpDone {
		t.Fatalf("%+v", op.Problem)
	}
	if op := g.AwaitEnd(second); op.State != dataset.OpFailed || op.Problem.Code != dataset.ErrConflict.Code {
		t.Errorf("%s, %+v", op.State, op.Problem)
	}
	if e, there := g.GuardA.Entry(d.ID); !there || e.State != guard.StateArmed || g.Recorded("db").Profile.Name != "auto" {
		t.Errorf("failover auto is recorded, and the guard does not watch the mount: %t, %+v", there, e)
	}
	g.LinkA.Cut()
	g.Network.SetCut(true)
	g.GuardA.AwaitFenced(d.ID)
	if agenttest.CanWrite(t, path, 100*time.Millisecond) {
		t.Error("a fenced volume is written to")
	}
	g.LinkA.Mend()
	g.Network.SetCut(false)
	agenttest.Await(t, func() bool { e, _ := g.GuardA.Entry(d.ID); return e.State == guard.StateArmed })
	g.A.MustUnmount("db", "user")
}

// otherCopies is a link to a control that knows a copy of which the node has not heard, until heard is closed. So it
// refuses to record a profile with failover auto.
type otherCopies struct {
	*agenttest.Link
	refused chan struct{} // gets a value with each refusal
	heard   chan struct{}
}

func (o otherCopies) hasHeard() bool {
	select {
	case <-o.heard:
		return true
	default:
		return false
	}
}

func (o otherCopies) Commit(ctx context.Context, node uuid.UUID, r api.Report) (api.Committed, error) {
	if r.Operation.Kind != dataset.OpUpdate || r.Operation.Problem != nil || o.hasHeard() {
		return o.Link.Commit(ctx, node, r)
	}
	select {
	case o.refused <- struct{}{}:
	default:
	}
	return api.Committed{}, dataset.Errorf(dataset.ErrConflict, "a node has a copy")
}

func (o otherCopies) Volume(ctx context.Context, ref string) (api.Volume, error) {
	v, err := o.Link.Volume(ctx, ref)
	if !o.hasHeard() {
		v.Copies = append(slices.Clone(v.Copies), uuid.New())
	}
	return v, err
}

// While a change to failover auto waits for control's record of a copy, the volume can be unmounted and mounted. The
// guard watches the present mount when the change is recorded.
func TestI1SetProfileThatWaitsBlocksNoMount(t *testing.T) {
	t.Parallel()
	g := agenttest.NewBounded(t)
	d := newManual(g, "db")
	control := otherCopies{g.LinkA, make(chan struct{}, 1), make(chan struct{})}
	g.A.Config.Control = control
	g.A.Config.Timing.InUseWait = time.Hour
	g.A.Restart()
	path := g.A.MustMount("db", "first")
	op := mustSubmit(g, "db", "auto")
	<-control.refused
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	require.NoErrorf(t, g.A.Unmount(ctx, "db", "first"), "unmount while the change waits")
	AwaitForgotten(g.GuardA, d.ID)
	<-control.refused
	if again := g.A.MustMount("db", "second"); again != path {
		t.Errorf("mounted at %s, before at %s", again, path)
	}
	if g.Recorded("db").Profile.Failover.Auto {
		t.Error("recorded already")
	}
	close(control.heard)
	if op := g.AwaitEnd(op); op.State != dataset.OpDone || !g.Recorded("db").Profile.Failover.Auto {
		t.Errorf("%s, %+v", op.State, op.Problem)
	}
	if e, there := g.GuardA.Entry(d.ID); !there || e.State != guard.StateArmed || e.Filesystem.Root == "" {
		t.Errorf("the guard does not watch the mount: %t, %+v", there, e)
	}
	g.A.MustUnmount("db", "second")
	AwaitForgotten(g.GuardA, d.ID)
}

// While an operation may still give a volume failover auto, no other operation replaces its mark.
func TestI1MarkOfUnfinishedSetProfileStays(t *testing.T) {
	t.Parallel()
	g := agenttest.NewBounded(t)
	d := newManual(g, "db")
	g.B.NewVolume("other", nil)
	g.LinkB.Cut()
	out, err := g.Service.Submit(g.Context(), api.Request{ID: uuid.New(), Kind: dataset.OpSnapshot, Volume: "other", Snapshot: "s"})
	require.NoError(t, err)
	if err := g.A.Leases.Deadlines.Marks.Set(t.Context(), d.ID, out.Operation.ID); err != nil { // stands for such an operation
		t.Fatal(err)
	}
	if op := g.AwaitEnd(mustSubmit(g, "db", "auto")); op.State != dataset.OpFailed || op.Problem.Code != dataset.ErrConflict.Code {
		t.Errorf("%s, %+v", op.State, op.Problem)
	}
	if !g.A.Leases.Deadlines.Marks.Has(d.ID) {
		t.Error("the mark was removed")
	}
	g.LinkB.Mend()
	g.AwaitEnd(*out.Operation)
	mustSetProfile(g, "db", "auto")
	agenttest.Await(t, func() bool { return !g.A.Leases.Deadlines.Marks.Has(d.ID) })
}

// The mark of a volume in the trash stays until the volume is restored or purged, and nothing is logged about it.
func TestMarkOfDeletedVolumeStays(t *testing.T) {
	t.Parallel()
	g := agenttest.NewBounded(t)
	d := newManual(g, "db")
	require.NoError(t, g.A.Leases.Deadlines.Marks.Set(t.Context(), d.ID, uuid.New()))
	require.NoError(t, g.A.Remove(t.Context(), "db@hand"))
	assert.NoErrorf(t, g.A.Leases.Deadlines.Marks.Settle(t.Context()), "the mark of a deleted volume")
	if _, home := g.A.Cache.Dataset(d.ID); home && !g.A.Leases.Deadlines.Marks.Has(d.ID) {
		t.Error("the mark was removed, and the volume may be restored")
	}
}
