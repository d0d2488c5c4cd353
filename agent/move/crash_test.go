package move_test

import (
	"fmt"
	"testing"
	"time"

	"github.com/google/uuid"

	"github.com/droverhq/drover/agent/agenttest"
	"github.com/droverhq/drover/dataset"
	"github.com/droverhq/drover/internal/long"
)

// The home and the target crash before and after every act of a move. After a restart both reach a final state: one
// of them has the volume, with everything that was written, at an epoch that is not smaller. At no act would both
// open it.
func TestI1MoveCrashesAtEveryAct(t *testing.T) {
	t.Parallel()
	f := agenttest.NewCluster(t, "loop", "loop")
	movesCutShort(f, f.A.NewVolume("db", map[string]string{"size": "320MiB"}))
}

// The same on a share, where nothing is copied.
func TestI1MoveOnShareCrashesAtEveryAct(t *testing.T) {
	t.Parallel()
	long.Only(t)
	f := agenttest.NewCluster(t, "nfs", "nfs")
	movesCutShort(f, f.A.NewVolume("db", nil))
}

func movesCutShort(f *agenttest.Cluster, d dataset.Dataset) {
	t := f.T
	home, epoch, round := f.A, uint64(1), 0
	look := func(act string) {
		if f.A.WouldOpen(d.ID) && f.B.WouldOpen(d.ID) {
			t.Errorf("round %d: both would open it, at %s", round, act)
		}
	}
	for _, target := range []bool{true, false} {
		for _, late := range []bool{true, false} {
			for n := 0; ; n++ {
				round++
				from, to := home, f.Other(home)
				victim := from
				if target {
					victim = to
				}
				token := fmt.Sprint("round ", round)
				from.WriteFile("db", "token", token)
				f.A.Fuse.Set(-1, late, look)
				f.B.Fuse.Set(-1, late, look)
				gone := victim.Fuse.Set(n, late, look)
				op := f.BeginMove("db", to)
				done := make(chan dataset.Operation, 1)
				go func() { done <- f.AwaitEnd(op) }()
				cut := cutOrDone(f, gone, done, &op, from, d.ID)
				what := fmt.Sprintf("round %d, target %t, late %t: cut at act %d of %v", round, target, late, n, victim.Fuse.Seen())
				if cut {
					victim.Restart()
					if !op.State.Final() {
						op = <-done
					}
				} else {
					victim.Fuse.Mend()
				}
				v := f.Recorded("db")
				if op.State == dataset.OpDone {
					home = to
				}
				if v.Home != home.Node() || v.Epoch < epoch || op.State == dataset.OpDone && v.Epoch == epoch || v.Move != uuid.Nil {
					t.Fatalf("%s: operation %s, %+v; on record %+v", what, op.State, op.Problem, v.Dataset)
				}
				epoch = v.Epoch
				if op.State == dataset.OpDone {
					f.Other(home).AwaitSettled(d.ID)
				}
				agenttest.Await(t, func() bool { return home.WouldOpen(d.ID) })
				if got := home.ReadFile("db", "token"); got != token {
					t.Fatalf("%s: operation %s: it holds %q", what, op.State, got)
				}
				if f.Other(home).WouldOpen(d.ID) {
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

// cutOrDone waits until a host has crashed, or a move has ended on all nodes.
func cutOrDone(f *agenttest.Cluster, gone <-chan struct{}, done chan dataset.Operation, op *dataset.Operation, from *agenttest.Host, id uuid.UUID) (cut bool) {
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
			_, given := from.Answering().Leases.Relinquished(id)
			_, kept := from.Answering().Cache.Copy(id)
			if f.Share != "" {
				_, home := from.Answering().Cache.Dataset(id)
				kept = !home
			}
			if kept && !given {
				return false
			}
		}
	}
}
