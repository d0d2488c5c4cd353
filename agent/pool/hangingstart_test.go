package pool_test

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/uuid"
	"golang.org/x/sys/unix"

	"github.com/droverhq/drover/agent"
	"github.com/droverhq/drover/agent/agenttest"
	"github.com/droverhq/drover/agent/host"
	"github.com/droverhq/drover/agent/pool"
	"github.com/droverhq/drover/backends"
	"github.com/droverhq/drover/control/api"
	"github.com/droverhq/drover/dataset"
)

// hungRig has two pools, default and other, with a volume in each.
func hungRig(t *testing.T) (r *agenttest.Host, h *agenttest.HangingBackend, here, there dataset.Dataset) {
	t.Helper()
	h = &agenttest.HangingBackend{}
	r = agenttest.New(t, func(c *agent.Config) {
		c.Backends = backends.NewRegistry(h)
		c.Pools = append(c.Pools, pool.Config{Name: "other", Backend: "dir", Path: filepath.Join(c.Root, "other")})
	})
	t.Cleanup(h.Resume)
	here = r.NewVolume("here")
	if err := r.Create(t.Context(), "there", map[string]string{"pool": "other"}); err != nil {
		t.Fatal(err)
	}
	there, _ = r.Cache.Volume("there")
	return r, h, here, there
}

// restartsLate restarts the agent, and advances the clock until the start no longer waits for its disks. Then it
// waits until pool default serves.
func restartsLate(r *agenttest.Host) {
	r.T.Helper()
	cfg := r.Config
	r.Stop()
	a, err := agent.New(r.T.Context(), cfg)
	if err != nil {
		r.T.Fatal(err)
	}
	r.Agent = a
	started := make(chan error, 1)
	go func() { started <- a.Start(r.T.Context()) }()
	agenttest.Await(r.T, func() bool {
		select {
		case err = <-started:
			return true
		default:
			r.FakeClock.Advance(pool.StartPatience / 10)
			return false
		}
	})
	if err != nil {
		r.T.Fatal(err)
	}
	agenttest.Await(r.T, func() bool { // on a busy machine the start may have given up waiting for a healthy disk too
		if p, known := r.Pools.ByName("default"); known && p.CheckServed() == nil {
			return true
		}
		r.FakeClock.Advance(r.Timing.Heartbeat)
		return false
	})
}

func other(r *agenttest.Host) *pool.Pool {
	r.T.Helper()
	p, known := r.Pools.ByName("other")
	if !known {
		r.T.Fatal("pool other is not known")
	}
	return p
}

// The disk of one pool hangs when Drover starts, at whichever call comes first. The start ends, the volumes in the
// other pools are served, and the volumes in that pool exist unchanged when the disk continues.
func TestStartWhileAPoolHangs(t *testing.T) {
	for call, before := range map[string]func(r *agenttest.Host, there dataset.Dataset){
		// Acknowledged, and not in its place after a power cut.
		"open": func(r *agenttest.Host, there dataset.Dataset) {
			areas := filepath.Join(r.Root, "other")
			if err := os.Rename(filepath.Join(areas, "datasets", there.ID.String()), filepath.Join(areas, "incoming", there.ID.String())); err != nil {
				r.T.Fatal(err)
			}
		},
		"reap": func(r *agenttest.Host, _ dataset.Dataset) { // a create that was interrupted
			p := other(r)
			d := dataset.Dataset{ID: uuid.New(), Volume: "cut", State: dataset.StateReady, Epoch: 1, Home: r.NodeID, Pool: p.ID}
			if _, err := p.Storage.Create(r.T.Context(), d); err != nil {
				r.T.Fatal(err)
			}
		},
		"attach": func(r *agenttest.Host, there dataset.Dataset) { // in use, and not mounted
			r.MountDataset(there, "kept")
			if err := unix.Unmount(r.MountPath(there.ID), 0); err != nil {
				r.T.Fatal(err)
			}
		},
	} {
		t.Run(call, func(t *testing.T) {
			r, h, here, there := hungRig(t)
			before(r, there)
			h.Hang(call)
			restartsLate(r)

			r.MountDataset(here, "id")
			r.WantUses(here, "id")
			r.NewVolume("new")
			if _, err := r.Get(t.Context(), "there"); err != nil {
				t.Error(err)
			}
			if call == "open" {
				isHung(r, there, 3)
				gone, cancel := context.WithCancel(t.Context())
				cancel()
				if r.Pools.Retry(gone) || h.Calls() != 1 { // a pool that is being asked is not asked again
					t.Errorf("it is open, or was asked %d times", h.WaitingCalls)
				}
			}
			h.Resume()
			agenttest.Await(t, func() bool { r.FakeClock.Advance(r.Timing.Heartbeat); return other(r).CheckServed() == nil })
			r.MountDataset(there, "id")
			if r.Uses.Get(there.ID).IDs["id"].Count != 1 {
				t.Errorf("%+v", r.Uses.Get(there.ID))
			}
			agenttest.Await(t, func() bool {
				left, err := os.ReadDir(filepath.Join(r.Root, "other", "incoming"))
				return err == nil && (len(left) == 0 || call == "open")
			})
		})
	}
}

// isHung checks what is reported of a pool that hangs, and of the volumes in it.
func isHung(r *agenttest.Host, there dataset.Dataset, found int) {
	r.T.Helper()
	ctx := r.T.Context()
	const want = "does not respond, since "
	for _, st := range r.Pools.Status(ctx) {
		if st.ID == there.Pool && (st.Online || !strings.HasPrefix(st.Reason, want)) {
			r.T.Errorf("%+v", st)
		}
	}
	if f := r.Finding("pool other"); f.Level != host.Error || !strings.Contains(f.Text, want) {
		r.T.Errorf("%+v", f)
	}
	_, err := r.Mount(ctx, "there", "id")
	for what, err := range map[string]error{
		"mount":  err,
		"create": r.Create(ctx, "late", map[string]string{"pool": "other"}),
	} {
		if !errors.Is(err, dataset.ErrOffline) || !strings.Contains(err.Error(), want) {
			r.T.Errorf("%s: %v", what, err)
		}
	}
	if _, err := r.RebuildStore(ctx, api.RebuildStore{}); !errors.Is(err, dataset.ErrOffline) {
		r.T.Errorf("a rebuild that does not see what lies there: %v", err)
	}
	if h, err := r.Holdings.List(ctx); err != nil || len(h.ExaminedPools) != 1 || len(h.Datasets) != found {
		r.T.Errorf("%+v, %v", h, err) // the known state of that volume is used
	}
}

// The disk of one pool hangs while the pool is raised. The other pool is raised again and again, and control is
// notified. The hanging pool is raised once its disk continues, also for changes that happened meanwhile.
func TestRaiseWhileAPoolHangs(t *testing.T) {
	r, h, here, there := hungRig(t)
	rests := func(d dataset.Dataset) (generation uint64) {
		t.Helper()
		agenttest.Await(t, func() bool {
			r.FakeClock.Advance(pool.StartPatience)
			p := r.Pools.ByID(d.Pool)
			generation = p.Generation
			return generation > 0 && !p.RaiseSoon && !p.UsedSinceRaise && !p.Raising && !p.RaiseUnreported
		})
		return generation
	}
	here0, there0 := rests(here), rests(there) // also for its first home, or for both at once
	h.Hang("raise")
	r.Pools.MarkChanged(there.Pool, true)
	agenttest.Await(t, func() bool { r.FakeClock.Advance(r.Timing.Heartbeat); return h.Calls() == 1 })
	for n := range uint64(3) {
		r.Pools.MarkChanged(here.Pool, true)
		if g := rests(here); g != here0+n+1 {
			t.Fatalf("the other one is of generation %d, and was of %d", g, here0+n)
		}
	}
	if g, asked := r.Pools.ByID(there.Pool).Generation, h.Calls(); g != there0 || asked != 1 {
		t.Errorf("the one that hangs is of generation %d, and was asked %d times", g, asked)
	}
	r.Pools.MarkChanged(there.Pool, true) // this counts for the next raise
	h.Resume()
	if g := rests(there); g != there0+2 {
		t.Errorf("when the disk continues the generation is %d, and was %d", g, there0)
	}
}

// An agent that stops while a pool hangs releases the pool when it answers: another agent can open it.
func TestStopWhileAPoolHangs(t *testing.T) {
	r, h, _, there := hungRig(t)
	h.Hang("open")
	restartsLate(r)
	late, cfg := other(r).Opening, r.Config
	r.Stop()
	h.Resume()
	<-late.Done
	r.StartWith(cfg)
	if p := other(r); p.Storage == nil {
		t.Fatal(p.OfflineReason)
	}
	r.MountDataset(there, "id")
	r.WantUses(there, "id")
}
