package pool_test

import (
	"errors"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"github.com/droverhq/drover/agent/agenttest"
	"github.com/droverhq/drover/agent/controlsync"
	"github.com/droverhq/drover/agent/pool"
	"github.com/droverhq/drover/dataset"
)

// toldOf returns what control knows of a volume here, and of pool other.
func toldOf(r *agenttest.Host, d dataset.Dataset) (mounted bool, other dataset.PoolStatus) {
	r.T.Helper()
	v, err := r.Control.Volume(r.T.Context(), d.ID.String())
	if err != nil {
		r.T.Fatal(err)
	}
	list, err := r.Control.Pools(r.T.Context())
	if err != nil {
		r.T.Fatal(err)
	}
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
				if err := os.Rename(rec.Path, moved); err != nil {
					t.Fatal(err)
				}
			} else {
				h.Hang("open")
			}
			if err := r.DB.Put(t.Context(), map[string]any{"pools/other": rec}); err != nil {
				t.Fatal(err)
			}
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
			if err := mounts(); !errors.Is(err, dataset.ErrOffline) {
				t.Error(err)
			}
		})
	}
}
