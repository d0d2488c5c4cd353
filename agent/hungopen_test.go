package agent

import (
	"errors"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"github.com/droverhq/drover/agent/controlsync"
	"github.com/droverhq/drover/agent/pool"
	"github.com/droverhq/drover/dataset"
)

// toldOf is what control has heard of a volume here, and of pool other.
func (r *rig) toldOf(d dataset.Dataset) (mounted bool, other dataset.PoolStatus) {
	r.t.Helper()
	v, err := r.Control.Volume(r.t.Context(), d.ID.String())
	if err != nil {
		r.t.Fatal(err)
	}
	list, err := r.Control.Pools(r.t.Context())
	if err != nil {
		r.t.Fatal(err)
	}
	for _, p := range list {
		if p.Name == "other" && p.Status != nil {
			other = *p.Status
		}
	}
	return v.Status != nil && v.Status.Mounted, other
}

// The disk of a pool begins to hang while it is open: control hears that, and on of all else;
// it is asked once, and taken in by itself when it answers.
func TestAnOpenPoolHangs(t *testing.T) {
	for _, call := range []string{"status", "generation", "used"} {
		t.Run(call, func(t *testing.T) {
			r, h, here, there := hungRig(t)
			await(t, func() bool {
				r.clock.Advance(r.Limits.Heartbeat)
				_, other := r.toldOf(here)
				return other.Online && !slices.ContainsFunc(r.pools.All(), func(op *pool.Pool) bool { return op.IsDue(r.clock.Steady()) || op.Raising })
			})
			h.mu.Lock()
			h.own = call == "used"
			h.mu.Unlock()
			h.hangs(call)
			r.News.Changed(there.ID)
			await(t, func() bool { r.clock.Advance(controlsync.SettleTime); return h.asked() == 1 })
			why := pool.NoAnswer(r.other().Asked.Since)
			await(t, func() bool {
				r.clock.Advance(pool.AskPatience / pool.AskTurns)
				_, other := r.toldOf(here)
				return !other.Online && other.Reason == why
			})
			for range 3 { // heartbeats go on
				for _, mounts := range []bool{true, false} {
					if mounts {
						r.mount(here, "id")
					} else if err := r.Unmount(t.Context(), "here", "id"); err != nil {
						t.Fatal(err)
					}
					await(t, func() bool {
						r.clock.Advance(controlsync.SettleTime)
						mounted, _ := r.toldOf(here)
						return mounted == mounts
					})
				}
			}
			r.isHung(there, 2)
			if n := h.asked(); n != 1 {
				t.Errorf("it was asked %d times", n)
			}
			h.goesOn()
			await(t, func() bool {
				r.clock.Advance(controlsync.SettleTime)
				_, other := r.toldOf(here)
				return other.Online
			})
			r.mount(there, "id")
			r.want(there, "id")
		})
	}
}

// An agent stops while an open pool hangs, which is closed when it answers.
func TestStopWhileAnOpenPoolHangs(t *testing.T) {
	r, h, _, there := hungRig(t)
	h.hangs("status")
	r.News.Soon()
	await(t, func() bool { r.clock.Advance(controlsync.SettleTime); return h.asked() == 1 })
	q, cfg := r.other().Asked, r.config
	r.close()
	select {
	case <-q.Done:
		t.Error("it did not hang")
	default:
	}
	h.goesOn()
	<-q.Done
	await(t, func() bool { return h.closed() })
	r.start(cfg)
	r.mount(there, "id")
	r.want(there, "id")
}

// An agent stops while a healthy pool is being asked: the stop waits for the answer, so the pool is closed
// when the stop has ended.
func TestStopWaitsForAnAnswer(t *testing.T) {
	r, h, _, _ := hungRig(t)
	h.hangs("status")
	r.News.Soon()
	await(t, func() bool { r.clock.Advance(controlsync.SettleTime); return h.asked() == 1 })
	time.AfterFunc(pool.ClosePatience/10, h.goesOn) // no event tells that the stop waits for the pools
	cfg := r.config
	r.close()
	if !h.closed() {
		t.Error("the pool is not closed")
	}
	r.start(cfg)
}

// A pool was put back with the agent's record of it, and is opened while others are served: as
// its disk answers late, or as it is adopted. Nothing in it is mounted before control was asked,
// and with control away what is its own.
func TestPoolThatWasPutBackIsOpenedLate(t *testing.T) {
	for _, how := range []string{"late", "adopted", "late, control away"} {
		t.Run(how, func(t *testing.T) {
			r, h, _, there := hungRig(t)
			at := func(generation uint64) {
				t.Helper()
				await(t, func() bool {
					r.clock.Advance(controlsync.SettleTime)
					op := r.other()
					return op.Generation == generation && op.Record.Generation == generation && !op.Unstored
				})
			}
			at(1)
			putBack := r.saved("other")
			r.restart()
			at(2)
			rec, moved := r.other().Record, filepath.Join(r.root, "moved")
			rec.Generation = 1
			putBack()
			if how == "adopted" {
				if err := os.Rename(rec.Path, moved); err != nil {
					t.Fatal(err)
				}
			} else {
				h.hangs("open")
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
				r.link.away()
			}
			r.restartsLate()
			r.link.setHears(func() {
				if !away && mounts() == nil {
					t.Error("mounted before control has said whether it was put back")
				}
			})
			if how == "adopted" {
				if _, _, err := r.AdoptPool(t.Context(), moved); !errors.Is(err, dataset.ErrOffline) {
					t.Error(err)
				}
			}
			h.goesOn()
			if away {
				await(t, func() bool { r.clock.Advance(r.Limits.Heartbeat); return mounts() == nil })
				r.link.back()
			}
			await(t, func() bool { r.clock.Advance(r.Limits.Heartbeat); return r.pools.Free(there.Pool) != nil })
			if err := mounts(); !errors.Is(err, dataset.ErrOffline) {
				t.Error(err)
			}
		})
	}
}
