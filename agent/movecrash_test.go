package agent

import (
	"fmt"
	"testing"
	"time"

	"github.com/google/uuid"

	"github.com/droverhq/drover/backends"
	"github.com/droverhq/drover/dataset"
	"github.com/droverhq/drover/internal/long"
)

// opener reports whether an agent would open a dataset for somebody new.
func (h *flockHost) opener(id uuid.UUID) bool {
	a := h.agent()
	if h.fuse.blown() {
		return false
	}
	d, home := a.Cache.Dataset(id)
	if !home {
		return false
	}
	if _, err := a.mounter.MayMount(d); err != nil {
		return false
	}
	p, ok := a.pools.ByName("default")
	if !ok || p.Storage == nil {
		return false
	}
	e, err := p.Storage.Stat(a.Ctx, id)
	return err == nil && e.State != backends.EntryCopy
}

// The home, and the target, die at every act of a move, before it and after. Started
// again both come to one end: one of them has the volume, with all that was written, at
// an epoch that is no smaller. At no act would both open it.
func TestI1MoveCutShort(t *testing.T) {
	t.Parallel()
	f := newFlock(t, "loop", "loop")
	f.movesCutShort(f.a.volume("db", map[string]string{"size": "320MiB"}))
}

// The same, where subvolumes are copied.
func TestI1MoveOfSubvolumesCutShort(t *testing.T) {
	t.Parallel()
	long.Only(t)
	f := newFlock(t, "btrfs", "btrfs")
	f.movesCutShort(f.a.volume("db", nil))
}

// The same, where nothing is copied.
func TestI1MoveOnAShareCutShort(t *testing.T) {
	t.Parallel()
	long.Only(t)
	f := newFlock(t, "nfs", "nfs")
	f.movesCutShort(f.a.volume("db", nil))
}

func (f *flock) movesCutShort(d dataset.Dataset) {
	t := f.T
	home, epoch, round := f.a, uint64(1), 0
	look := func(act string) {
		if f.a.opener(d.ID) && f.b.opener(d.ID) {
			t.Errorf("round %d: both would open it, at %s", round, act)
		}
	}
	for _, target := range []bool{true, false} {
		for _, late := range []bool{true, false} {
			for n := 0; ; n++ {
				round++
				from, to := home, f.other(home)
				victim := from
				if target {
					victim = to
				}
				token := fmt.Sprint("round ", round)
				from.writes("db", "token", token)
				f.a.fuse.set(-1, late, look)
				f.b.fuse.set(-1, late, look)
				gone := victim.fuse.set(n, late, look)
				op := f.begins("db", to)
				done := make(chan dataset.Operation, 1)
				go func() { done <- f.ended(op) }()
				cut := f.cutOrDone(gone, done, &op, from, d.ID)
				what := fmt.Sprintf("round %d, target %t, late %t: cut at act %d of %v", round, target, late, n, victim.fuse.seen())
				if cut {
					victim.again()
					if !op.State.Final() {
						op = <-done
					}
				} else {
					victim.fuse.mend()
				}
				v := f.record("db")
				if op.State == dataset.OpDone {
					home = to
				}
				if v.Home != home.Node() || v.Epoch < epoch || op.State == dataset.OpDone && v.Epoch == epoch || v.Move != uuid.Nil {
					t.Fatalf("%s: operation %s, %+v; on record %+v", what, op.State, op.Problem, v.Dataset)
				}
				epoch = v.Epoch
				if op.State == dataset.OpDone {
					f.other(home).settled(d.ID)
				}
				await(t, func() bool { return home.opener(d.ID) })
				if got := home.reads("db", "token"); got != token {
					t.Fatalf("%s: operation %s: it holds %q", what, op.State, got)
				}
				if f.other(home).opener(d.ID) {
					t.Fatalf("%s: the other would open it too", what)
				}
				if !cut {
					t.Logf("%s", what)
					break
				}
			}
		}
	}
}

// cutOrDone waits until a host has died, or a move has come to all its ends.
func (f *flock) cutOrDone(gone <-chan struct{}, done chan dataset.Operation, op *dataset.Operation, from *flockHost, id uuid.UUID) (cut bool) {
	select {
	case <-gone:
		return true
	case *op = <-done:
	}
	for end := time.After(5 * time.Second); ; {
		select {
		case <-gone:
			return true
		case <-end:
			return false
		case <-time.After(10 * time.Millisecond):
			_, given := from.agent().leases.Relinquished(id)
			_, kept := from.agent().Cache.Copy(id)
			if f.shared != "" {
				_, home := from.agent().Cache.Dataset(id)
				kept = !home
			}
			if kept && !given {
				return false
			}
		}
	}
}
