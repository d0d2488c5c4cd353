package pool_test

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/uuid"
	"golang.org/x/sys/unix"

	"github.com/droverhq/drover/agent"
	"github.com/droverhq/drover/agent/agenttest"
	"github.com/droverhq/drover/agent/controlsync"
	"github.com/droverhq/drover/agent/pool"
	"github.com/droverhq/drover/backends"
	"github.com/droverhq/drover/backends/dir"
	"github.com/droverhq/drover/control/api"
	"github.com/droverhq/drover/dataset"
	"github.com/droverhq/drover/test/assert"
	"github.com/droverhq/drover/test/require"
)

// toldOf returns what control knows of a volume here, and of pool other.
func toldOf(r *agenttest.Host, d dataset.Dataset) (mounted bool, other dataset.PoolStatus) {
	r.T.Helper()
	v, err := r.Control.Volume(r.T.Context(), d.ID.String())
	require.NoError(r.T, err)
	list, err := r.Control.Pools(r.T.Context())
	require.NoError(r.T, err)
	for _, p := range list {
		if p.Name == "other" && p.Status != nil {
			other = *p.Status
		}
	}
	return v.Status != nil && v.Status.Mounted, other
}

// The disk of a pool begins to hang while the pool is open. Control learns that, and continues to get the status of
// everything else. The pool is asked once, and serves again without intervention when it answers.
func TestOpenPoolHangs(t *testing.T) {
	for _, call := range []string{"status", "generation", "used"} {
		t.Run(call, func(t *testing.T) {
			r, h, here, there := hungRig(t)
			agenttest.Await(t, func() bool {
				r.FakeClock.Advance(r.Timing.Heartbeat)
				_, other := toldOf(r, here)
				return other.Online && !slices.ContainsFunc(r.Pools.All(), func(p *pool.Pool) bool { return p.IsDue(r.FakeClock.Steady()) || p.Raising })
			})
			h.Mu.Lock()
			h.OwnFilesystem = call == "used"
			h.Mu.Unlock()
			h.Hang(call)
			r.News.Changed(there.ID)
			agenttest.Await(t, func() bool { r.FakeClock.Advance(controlsync.SettleTime); return h.Calls() == 1 })
			why := pool.NoAnswerReason(other(r).Question.Since)
			agenttest.Await(t, func() bool {
				r.FakeClock.Advance(pool.AskPatience / pool.AskTurns)
				_, other := toldOf(r, here)
				return !other.Online && other.Reason == why
			})
			for range 3 { // heartbeats continue
				for _, mounts := range []bool{true, false} {
					if mounts {
						r.MountDataset(here, "id")
					} else if err := r.Unmount(t.Context(), "here", "id"); err != nil {
						t.Fatal(err)
					}
					agenttest.Await(t, func() bool {
						r.FakeClock.Advance(controlsync.SettleTime)
						mounted, _ := toldOf(r, here)
						return mounted == mounts
					})
				}
			}
			isHung(r, there, 2)
			if n := h.Calls(); n != 1 {
				t.Errorf("it was asked %d times", n)
			}
			h.Resume()
			agenttest.Await(t, func() bool {
				r.FakeClock.Advance(controlsync.SettleTime)
				_, other := toldOf(r, here)
				return other.Online
			})
			r.MountDataset(there, "id")
			r.WantUses(there, "id")
		})
	}
}

// An agent stops while an open pool hangs. The pool is closed when it answers.
func TestStopWhileAnOpenPoolHangs(t *testing.T) {
	r, h, _, there := hungRig(t)
	h.Hang("status")
	r.News.Soon()
	agenttest.Await(t, func() bool { r.FakeClock.Advance(controlsync.SettleTime); return h.Calls() == 1 })
	q, cfg := other(r).Question, r.Config
	r.Stop()
	select {
	case <-q.Done:
		t.Error("it did not hang")
	default:
	}
	h.Resume()
	<-q.Done
	agenttest.Await(t, func() bool { return h.Closed() })
	r.StartWith(cfg)
	r.MountDataset(there, "id")
	r.WantUses(there, "id")
}

// An agent stops while a healthy pool is being asked: the stop waits for the answer, so the pool is closed
// when the stop has ended.
func TestStopWaitsForAnAnswer(t *testing.T) {
	r, h, _, _ := hungRig(t)
	h.Hang("status")
	r.News.Soon()
	agenttest.Await(t, func() bool { r.FakeClock.Advance(controlsync.SettleTime); return h.Calls() == 1 })
	time.AfterFunc(pool.ClosePatience/10, h.Resume) // no event tells that the stop waits for the pools
	cfg := r.Config
	r.Stop()
	if !h.Closed() {
		t.Error("the pool is not closed")
	}
	r.StartWith(cfg)
}

// A pool was restored together with the agent's record of it, and is opened while others are served, because its disk
// answers late or because it is adopted. Nothing in it is mounted before control was asked. While control is
// unreachable only volumes whose home is this node are mounted.
func TestRestoredPoolIsOpenedLate(t *testing.T) {
	for _, how := range []string{"late", "adopted", "late, control away"} {
		t.Run(how, func(t *testing.T) {
			r, h, _, there := hungRig(t)
			at := func(generation uint64) {
				t.Helper()
				agenttest.Await(t, func() bool {
					r.FakeClock.Advance(controlsync.SettleTime)
					p := other(r)
					return p.Generation == generation && p.Record.Generation == generation && !p.RaiseUnreported
				})
			}
			at(1)
			putBack := r.SavePool("other")
			r.Restart()
			at(2)
			rec, moved := other(r).Record, filepath.Join(r.Root, "moved")
			rec.Generation = 1
			putBack()
			if how == "adopted" {
				require.NoError(t, os.Rename(rec.Path, moved))
			} else {
				h.Hang("open")
			}
			require.NoError(t, r.DB.Put(t.Context(), map[string]any{"pools/other": rec}))
			mounts := func() error {
				_, err := r.Mount(t.Context(), "there", "id")
				if err == nil {
					err = r.Unmount(t.Context(), "there", "id")
				}
				return err
			}
			away := how == "late, control away"
			if away {
				r.Link.Cut()
			}
			restartsLate(r)
			r.Link.OnGenerations(func() {
				if !away && mounts() == nil {
					t.Error("mounted before control has said whether it was put back")
				}
			})
			if how == "adopted" {
				if _, _, err := r.AdoptPool(t.Context(), moved, false); !errors.Is(err, dataset.ErrOffline) {
					t.Error(err)
				}
			}
			h.Resume()
			if away {
				agenttest.Await(t, func() bool { r.FakeClock.Advance(r.Timing.Heartbeat); return mounts() == nil })
				r.Link.Mend()
			}
			agenttest.Await(t, func() bool {
				r.FakeClock.Advance(r.Timing.Heartbeat)
				return r.Pools.CheckQuarantine(there.Pool) != nil
			})
			assert.ErrorIs(t, mounts(), dataset.ErrOffline)
		})
	}
}

// The disk of a pool hangs while hints on its free space are asked for, again and again: the pool is asked once, and
// each hint ends without its answer.
func TestSpaceHintsOfHangingPool(t *testing.T) {
	for _, call := range []string{"status", "used"} {
		t.Run(call, func(t *testing.T) {
			r, h, _, there := hungRig(t)
			agenttest.Await(t, func() bool { // otherwise the raise would be the one request
				r.FakeClock.Advance(r.Timing.Heartbeat)
				p := other(r)
				return !p.IsDue(r.FakeClock.Steady()) && !p.Raising && p.Question == nil
			})
			h.Mu.Lock()
			h.OwnFilesystem = true
			h.Mu.Unlock()
			h.Hang(call)
			var hints sync.WaitGroup
			for range 10 {
				hints.Go(func() {
					full := dataset.Errorf(dataset.ErrNoSpace, "full")
					if err := r.Pools.AddHint(t.Context(), there.Pool, full); !strings.HasPrefix(err.Error(), "full") {
						t.Errorf("hint: %v", err)
					}
				})
				hints.Go(func() {
					if hint := r.Pools.RootHint(t.Context()); !strings.Contains(hint, "df -h "+r.Root) {
						t.Errorf("hint of the root: %q", hint)
					}
				})
			}
			ended := make(chan struct{})
			go func() { hints.Wait(); close(ended) }()
			agenttest.Await(t, func() bool {
				r.FakeClock.Advance(pool.AskPatience / pool.AskTurns)
				select {
				case <-ended:
					return true
				default:
					return h.Calls() > 1
				}
			})
			if n := h.Calls(); n != 1 {
				t.Errorf("the pool was asked %d times at once", n)
			}
			h.Resume()
			<-ended
		})
	}
}

// statHangs is backend dir whose pool other does not answer Stat until the gate is closed.
type statHangs struct {
	dir.Backend
	hangs atomic.Bool
	gate  chan struct{}
}

func (h *statHangs) Open(ctx context.Context, cfg backends.Config) (backends.Pool, error) {
	p, err := h.Backend.Open(ctx, cfg)
	if err != nil || cfg.Name != "other" {
		return p, err
	}
	return statPool{p, h}, nil
}

type statPool struct {
	backends.Pool
	h *statHangs
}

func (p statPool) Stat(ctx context.Context, id uuid.UUID) (backends.Entry, error) {
	if p.h.hangs.Load() {
		<-p.h.gate
	}
	return p.Pool.Stat(ctx, id)
}

// silentControl is a control that cannot be reached.
type silentControl struct{ api.Service }

func (silentControl) Volumes(context.Context, api.Page) (api.List[api.Volume], error) {
	return api.List[api.Volume]{}, dataset.Errorf(dataset.ErrUnavailable, "control is off")
}

func (silentControl) Snapshots(context.Context, string, api.Page) (api.List[dataset.Snapshot], error) {
	return api.List[dataset.Snapshot]{}, dataset.Errorf(dataset.ErrUnavailable, "control is off")
}

// While control is unreachable, a disk that hangs does not block a request for the snapshots of its volumes.
func TestOfflineSnapshotsWithHangingDisk(t *testing.T) {
	h := &statHangs{gate: make(chan struct{})}
	r := agenttest.New(t, func(c *agent.Config) {
		c.Backends = backends.NewRegistry(h)
		c.Pools = append(c.Pools, pool.Config{Name: "other", Backend: "dir", Path: filepath.Join(c.Root, "other")})
	})
	t.Cleanup(func() { close(h.gate) })
	here := r.NewVolume("here")
	require.NoError(t, r.Create(t.Context(), "there", map[string]string{"pool": "other"}))
	reader := r.Offline(silentControl{})
	h.hangs.Store(true)
	ended := make(chan error, 1)
	go func() {
		_, err := reader.Snapshots(t.Context(), "there", api.Page{})
		ended <- err
	}()
	var err error
	deadline := time.After(20 * time.Second)
	for asked := false; !asked; {
		r.FakeClock.Advance(pool.AskPatience / pool.AskTurns)
		select {
		case err = <-ended:
			asked = true
		case <-deadline:
			t.Fatal("the disk that hangs blocks the request")
		case <-time.After(time.Millisecond):
		}
	}
	if !errors.Is(err, dataset.ErrOffline) {
		t.Errorf("error %v, want that the pool is offline", err)
	}
	list, err := reader.Volumes(t.Context(), api.Page{})
	if err != nil || len(list.Items) != 2 || list.Items[0].ID != here.ID {
		t.Errorf("%+v, %v, want both volumes", list.Items, err)
	}
}

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
	require.NoError(t, r.Create(t.Context(), "there", map[string]string{"pool": "other"}))
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
	require.NoError(r.T, err)
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
	require.NoError(r.T, err)
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
			_, err := p.Storage.Create(r.T.Context(), d)
			require.NoError(r.T, err)
		},
		"attach": func(r *agenttest.Host, there dataset.Dataset) { // in use, and not mounted
			r.MountDataset(there, "kept")
			require.NoError(r.T, unix.Unmount(r.MountPath(there.ID), 0))
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
	if f := r.Finding("pool other"); f.Level != api.LevelError || !strings.Contains(f.Text, want) {
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
		r.T.Errorf("a rebuild with a pool that hangs: %v", err)
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
