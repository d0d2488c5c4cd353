// Package replication_test tests replicas, the snapshots that a home keeps for them, and inspections of superseded
// copies. These are parts of package move. It is a folder of its own, so that it runs beside the other tests. How a
// full pool ends or delays a transfer or a replica is tested in package move (c5_test.go, fullhome_test.go).
package replication_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/uuid"

	"github.com/droverhq/drover/agent/agenttest"
	"github.com/droverhq/drover/agent/host"
	"github.com/droverhq/drover/agent/move"
	"github.com/droverhq/drover/backends"
	"github.com/droverhq/drover/control/api"
	"github.com/droverhq/drover/dataset"
	"github.com/droverhq/drover/test/assert"
	"github.com/droverhq/drover/test/require"
)

// A replica follows the writes, and catches up after its node was unreachable. It costs its home no snapshot while
// nothing is written, and the volume continues from it if the home is lost.
func TestReplicaFollowsWritesAndTakesOver(t *testing.T) {
	t.Parallel()
	f := agenttest.NewCluster(t, "loop", "loop")
	f.MayFailWith = "requires replicas on more nodes" // once its home was superseded
	d := f.A.NewVolume("db", map[string]string{"size": "320MiB", "profile": "safe"})
	f.A.WriteFile("db", "token", "one")
	written := time.Now()
	agenttest.Await(t, func() bool { return f.ReplicaHasSince(f.B, "db", written) })

	// While nothing changes, the replica is verified again and again by the same snapshot.
	taken, checked := f.ReplicaTimes("db")
	agenttest.Await(t, func() bool {
		now, then := f.ReplicaTimes("db")
		if now.After(taken) { // the home still had dirty data to write
			taken, checked = now, then
		}
		return then.Sub(checked) > 2*time.Second
	})
	agenttest.Await(t, func() bool { // and keeps only the bases of the next difference
		e, err := f.A.Pool().Stat(t.Context(), d.ID)
		return err == nil && len(e.Snapshots) <= move.SentKept
	})

	// In each round the home removes the snapshots that nobody needs as a base any more, and so does the replica.
	for i := range 4 {
		f.A.WriteFile("db", "token", fmt.Sprint("round ", i))
		written = time.Now()
		agenttest.Await(t, func() bool { return f.ReplicaHasSince(f.B, "db", written) })
	}
	for _, h := range []*agenttest.Host{f.A, f.B} {
		agenttest.Await(t, func() bool {
			e, err := h.Pool().Stat(t.Context(), d.ID)
			return err == nil && len(e.Snapshots) <= move.SentKept
		})
	}

	if seen := f.B.ReplicaLags(); len(seen) != 1 || seen[0].Volume != "db" || seen[0].Age < 0 {
		t.Errorf("its figures are of %+v", seen)
	}
	f.B.Stop()
	f.A.WriteFile("db", "token", "two")
	written = time.Now()
	f.B.Start()
	agenttest.Await(t, func() bool { return f.ReplicaHasSince(f.B, "db", written) })
	agenttest.Await(t, func() bool { // snapshots that the home no longer keeps are removed at the next refresh
		e, err := f.B.Pool().Stat(t.Context(), d.ID)
		return err == nil && len(e.Snapshots) <= move.SentKept
	})

	f.A.Stop()
	out, err := f.Service.Submit(t.Context(), api.Request{ID: uuid.New(), Kind: dataset.OpMove, Volume: "db", Node: "host-b", Force: true, Fenced: "host-a"})
	require.NoError(t, err)
	if op := f.AwaitEnd(*out.Operation); op.State != dataset.OpDone || op.Loss.Taken.Before(written) {
		t.Fatalf("%s: %+v, %+v", op.State, op.Problem, op.Loss)
	}
	f.B.WantFile("db", "token", "two")
	f.A.Start()
	f.A.AwaitSettled(d.ID)
}

// A volume moves to its replica and leaves a replica behind, which is refreshed from there.
func TestMoveToReplicaLeavesReplica(t *testing.T) {
	t.Parallel()
	f := agenttest.NewCluster(t, "loop", "loop")
	f.A.NewVolume("db", map[string]string{"size": "320MiB", "profile": "safe"})
	f.A.WriteFile("db", "token", "one")
	written := time.Now()
	agenttest.Await(t, func() bool { return f.ReplicaHasSince(f.B, "db", written) })
	f.Move("db", f.B)
	f.B.WriteFile("db", "token", "two")
	written = time.Now()
	agenttest.Await(t, func() bool { return f.ReplicaHasSince(f.A, "db", written) })
	f.Move("db", f.A)
	f.A.WantFile("db", "token", "two")
}

// A home keeps the base of the next difference to a node for as long as that node asks for it, whatever control
// knows: a node whose pulls fail does not start from the beginning.
func TestHomeKeepsBaseWhilePeerNeedsIt(t *testing.T) {
	t.Parallel()
	f := agenttest.NewCluster(t, "loop", "loop")
	d := f.A.NewVolume("db", map[string]string{"size": "320MiB"})
	ctx := move.WithRequester(t.Context(), f.B.Node())
	var given []uuid.UUID
	for i := range 5 {
		f.A.WriteFile("db", "token", fmt.Sprint(i))
		var have []uuid.UUID
		if i > 0 {
			have = given[:1] // and no later one has arrived
		}
		if i == 4 {
			have = given[3:4]
		}
		s, _, err := f.A.TransferSource.TakeSnapshot(ctx, d.ID, have)
		err = errors.Join(err, f.A.Retention.Prune(ctx, f.A.Pool(), f.Recorded("db").Dataset)) // as happens soon
		require.NoError(t, err)
		given = append(given, s.ID)
		e, err := f.A.Pool().Stat(ctx, d.ID)
		require.NoError(t, err)
		first := host.IndexOf(e, given[0]) >= 0
		if first != (i < 4) || i == 3 && len(e.Snapshots) != 3 || host.IndexOf(e, s.ID) < 0 {
			t.Errorf("round %d: the first is there: %t, of %d", i, first, len(e.Snapshots))
		}
	}
}

// A replica has data that the volume continued without. It keeps that data as a superseded copy: neither a refresh
// nor a move nor control drops it before an operator does (I3).
func TestI3ReplicaAheadIsKeptAsSuperseded(t *testing.T) {
	t.Parallel()
	for _, condemned := range []bool{false, true} {
		t.Run(fmt.Sprint("condemned ", condemned), func(t *testing.T) { replicaAhead(t, condemned) })
	}
}

func replicaAhead(t *testing.T, condemned bool) {
	f := agenttest.NewCluster(t, "loop", "loop")
	f.MayFailWith = "requires replicas on more nodes" // once two are not refreshed
	c := f.AddHost("host-c", "loop")
	c.Start()
	d := f.A.NewVolume("db@safer", map[string]string{"size": "320MiB"})
	upTo := func(h *agenttest.Host) time.Time { return f.ReplicaTimeOn(h, "db") }
	write := func(text string, to ...*agenttest.Host) {
		t.Helper()
		f.A.WriteFile("db", "token", text)
		written := time.Now()
		for _, h := range to {
			agenttest.Await(t, func() bool {
				if f.ReplicaHasSince(h, "db", written) {
					return true
				}
				// The snapshot was taken between the write and the time in written.
				if time.Since(written) > 5*time.Second {
					f.A.WriteFile("db", "token", text)
					written = time.Now()
				}
				return false
			})
		}
	}
	write("one", f.B, c)
	f.B.Stop()
	write("two", c)
	c.Stop()
	f.A.Stop()
	f.RestartControl() // control has forgotten what it knew of c
	f.B.Start()
	agenttest.Await(t, func() bool { return upTo(f.B).After(upTo(c)) })
	out, err := f.Service.Submit(t.Context(), api.Request{ID: uuid.New(), Kind: dataset.OpMove, Volume: "db", Node: "host-b", Force: true, Fenced: "host-a"})
	require.NoError(t, err)
	if op := f.AwaitEnd(*out.Operation); op.State != dataset.OpDone {
		t.Fatalf("%+v", op.Problem)
	}
	f.B.WriteFile("db", "token", "three")
	if condemned { // because nobody knows what it has
		if _, err := f.Service.Submit(t.Context(), api.Request{ID: uuid.New(), Kind: dataset.OpUpdate, Volume: "db", Profile: "plain"}); err != nil {
			t.Fatal(err)
		}
		agenttest.Await(t, func() bool {
			return slices.ContainsFunc(f.Recorded("db").CopyDetails, func(k api.CopyDetail) bool { return k.Kind == dataset.CopyCondemned })
		})
	}
	c.Start()
	agenttest.Await(t, func() bool {
		k, kept := c.Cache.Copy(d.ID)
		return kept && k.Kind == dataset.CopySuperseded
	})
	f.B.WriteFile("db", "token", "four")
	op := f.AwaitEnd(f.BeginMove("db", c))
	if op.State != dataset.OpFailed || !strings.Contains(op.Problem.Message, "discard it first") {
		t.Errorf("%s: %+v", op.State, op.Problem)
	}
	k, _ := c.Cache.Copy(d.ID)
	if got := c.ReadSnapshot(d, k.Snapshot, "token"); got != "two" {
		t.Errorf("what it has and the volume has not holds %q", got)
	}
	if _, err := f.Service.Submit(t.Context(), api.Request{ID: uuid.New(), Kind: dataset.OpDiscard, Volume: "db", Node: "host-c"}); err != nil {
		t.Fatal(err)
	}
	agenttest.Await(t, func() bool {
		_, err := c.Pool().Stat(t.Context(), d.ID)
		return errors.Is(err, dataset.ErrNotFound)
	})
}

// A promotion does not wait until a refresh of the replica ends, because the home may have stopped during the refresh.
func TestPromotionInterruptsRefresh(t *testing.T) {
	t.Parallel()
	f := agenttest.NewCluster(t, "loop", "loop")
	f.MayFailWith = "requires replicas on more nodes"
	f.A.NewVolume("db@safe", map[string]string{"size": "320MiB"})
	f.A.WriteFile("db", "token", "one")
	written := time.Now()
	agenttest.Await(t, func() bool { return f.ReplicaHasSince(f.B, "db", written) })
	goOn := f.Network.StallStreams()
	t.Cleanup(goOn)
	f.A.WriteFile("db", "token", "two")
	agenttest.Await(t, func() bool { return f.Network.StalledStreams() > 0 })
	f.A.Stop()
	out, err := f.Service.Submit(t.Context(), api.Request{ID: uuid.New(), Kind: dataset.OpMove, Volume: "db", Node: "host-b", Force: true, Fenced: "host-a"})
	require.NoError(t, err)
	if op := f.AwaitEnd(*out.Operation); op.State != dataset.OpDone {
		t.Errorf("%s: %+v", op.State, op.Problem)
	}
	f.B.WantFile("db", "token", "one")
}

// undecided is a control that does not say how an operation ended: data that was transferred to this node stays.
type undecided struct{ api.Service }

func (undecided) Operation(context.Context, string, time.Duration) (op dataset.Operation, err error) {
	return op, dataset.Errorf(dataset.ErrUnavailable, "not now")
}

// lenient is a control that allows the removal of a copy.
type lenient struct{ api.Service }

func (l lenient) ReportCopy(ctx context.Context, node uuid.UUID, c api.CopyReport) error {
	if c.ConfirmRemoval {
		return nil
	}
	return l.Service.ReportCopy(ctx, node, c)
}

// A condemned copy is not destroyed while a move continues from it.
func TestCopyIsNotDestroyedDuringMove(t *testing.T) {
	t.Parallel()
	f := agenttest.NewCluster(t, "loop", "loop")
	d := f.A.NewVolume("db", map[string]string{"size": "320MiB"})
	f.Move("db", f.B)
	f.A.AwaitSettled(d.ID)
	f.A.Config.Timing.Heartbeat = time.Hour // only the operations of this test
	f.A.Config.Control = lenient{undecided{f.A.Config.Control}}
	f.A.Restart()
	f.A.AwaitSettled(d.ID)
	left, _ := f.A.Cache.Copy(d.ID)
	k := left
	k.Kind, k.PreviousKind = dataset.CopyCondemned, dataset.CopySuperseded
	for _, under := range []func() (end func()){
		func() func() { return f.A.MoveTable.Begin(d.ID) },
		func() func() { // as after a crash
			require.NoError(t, f.A.MoveTable.Set(t.Context(), d.ID, move.MoveRecord{Pool: k.Pool}))
			return func() {
				assert.NoError(t, f.A.MoveTable.Drop(t.Context(), d.ID))
			}
		},
	} {
		end := under()
		f.A.Cache.SetCopy(d.ID, &k)
		assert.NoError(t, f.A.Copies.Reconcile(t.Context(), d.ID))
		if _, err := f.A.Pool().Stat(t.Context(), d.ID); err != nil {
			t.Fatalf("destroyed under a move: %v", err)
		}
		f.A.Cache.SetCopy(d.ID, &left)
		end()
	}
	f.A.Cache.SetCopy(d.ID, &k)
	assert.NoError(t, f.A.Copies.Reconcile(t.Context(), d.ID))
	if _, err := f.A.Pool().Stat(t.Context(), d.ID); !errors.Is(err, dataset.ErrNotFound) {
		t.Errorf("not destroyed after it: %v", err)
	}
}

// If the guard of a node does not answer at the moment when a volume with failover auto is created, the node gets no
// replica then. It gets one when the guard answers again, without a change of the volume: a busy host can look like
// that now and then.
func TestReplicaIsAddedWhenGuardAnswers(t *testing.T) {
	t.Parallel()
	g := agenttest.NewBounded(t)
	follows := func() bool { // control would choose a node for a replica
		_, err := g.Service.Plan(t.Context(), g.A.Node(), api.Request{Kind: dataset.OpCreate, Volume: "probe@auto"})
		return err == nil
	}
	agenttest.Await(t, follows)
	var once sync.Once
	g.A.Fuse.Set(-1, false, func(act string) {
		if act == "commit" {
			once.Do(func() {
				g.GuardB.Stop()
				agenttest.Await(t, func() bool { return !follows() })
			})
		}
	})
	agenttest.Await(t, func() bool { return g.A.Create(t.Context(), "db@auto", nil) == nil })
	d, _ := g.A.Cache.Volume("db")
	time.Sleep(2 * agenttest.BoundSession / 5) // one round of the background work, which nothing reports
	if v := g.Recorded("db"); len(v.Copies) > 0 {
		t.Fatalf("copies: %v", v.Copies)
	}
	g.GuardB.Start()
	agenttest.Await(t, func() bool { _, kept := g.B.Replicas.Copy(d.ID); return kept })
}

// lying is a pool with one entry.
type lying struct {
	backends.Pool
	e backends.Entry
}

func (l lying) Stat(context.Context, uuid.UUID) (backends.Entry, error) { return l.e, nil }

// deletes records what is deleted from a pool with one entry.
type deletes struct {
	lying
	n *int
}

func (d deletes) DeleteSnapshot(context.Context, uuid.UUID, uuid.UUID) error {
	*d.n++
	return nil
}

// According to a store, which may have been restored from a backup, this node is the home of a dataset, but it has no
// head. It removes nothing of the data that it has: that may be the last data of the dataset.
func TestI3HomeWithoutAHeadRemovesNothing(t *testing.T) {
	r := agenttest.New(t)
	d := r.NewVolume("db")
	for _, c := range []struct {
		e    backends.Entry
		want int
	}{
		{backends.Entry{State: backends.EntryCopy}, 0},
		{backends.Entry{State: backends.EntryCopy, Promoted: true}, 1},
		{backends.Entry{State: backends.EntryReady}, 1},
	} {
		c.e.Snapshots = []dataset.Snapshot{{ID: uuid.New(), Dataset: d.ID, Kind: dataset.SnapshotTransfer, Request: uuid.New(), Epoch: 1, Created: r.Clock.Now()}}
		n := 0
		if err := r.Retention.Prune(t.Context(), deletes{lying{e: c.e}, &n}, d); err != nil || n != c.want {
			t.Errorf("%s, promoted %t: %d removed, %v", c.e.State, c.e.Promoted, n, err)
		}
	}
}

// After a rename, the node with a replica has the new name and the alias, also in the record beside its data.
func TestReplicaHasNamesAfterRename(t *testing.T) {
	t.Parallel()
	f := agenttest.NewCluster(t, "loop", "loop")
	d := f.A.NewVolume("old", map[string]string{"size": "320MiB", "profile": "safe"})
	f.A.WriteFile("old", "token", "one")
	written := time.Now()
	agenttest.Await(t, func() bool { return f.ReplicaHasSince(f.B, "old", written) })
	f.Submit(api.Request{Kind: dataset.OpRename, Volume: "old", Name: "new"})
	agenttest.Await(t, func() bool { k, _ := f.B.Cache.Copy(d.ID); return k.Record != nil && k.Record.HasName("new") })
	agenttest.Await(t, func() bool {
		e, err := f.B.Pool().Stat(t.Context(), d.ID)
		return err == nil && e.Record.Volume == "new" && e.Record.HasName("old") && e.Record.Epoch == d.Epoch
	})
	f.Submit(api.Request{Kind: dataset.OpDropAlias, Volume: "new", Name: "old"})
	agenttest.Await(t, func() bool {
		e, err := f.B.Pool().Stat(t.Context(), d.ID)
		return err == nil && e.Record.Volume == "new" && !e.Record.HasName("old")
	})
	f.B.Restart()
	f.A.WriteFile("new", "token", "two")
	written = time.Now()
	agenttest.Await(t, func() bool { return f.ReplicaHasSince(f.B, "new", written) })
}

func TestMain(m *testing.M) { agenttest.Main(m) }
