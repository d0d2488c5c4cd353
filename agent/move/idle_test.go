package move_test

import (
	"context"
	"net/http"
	"path"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/uuid"

	"github.com/droverhq/drover/agent/agenttest"
	"github.com/droverhq/drover/agent/move"
	"github.com/droverhq/drover/backends"
	"github.com/droverhq/drover/control/api"
	"github.com/droverhq/drover/dataset"
	"github.com/droverhq/drover/internal/tree/treetest"
	"github.com/droverhq/drover/test/require"
)

// A volume that nobody uses moves to another node and back: with its data, with its snapshots, and at a new epoch
// each time. The data that the former home keeps is not a head.
func TestMoveOfIdleVolumeAndBack(t *testing.T) {
	t.Parallel()
	f := agenttest.NewCluster(t, "loop", "loop")
	d := f.A.NewVolume("db", map[string]string{"size": "320MiB"})
	f.A.WriteFile("db", "token", "first")
	require.NoError(t, f.A.Perform(t.Context(), api.Request{Kind: dataset.OpSnapshot, Volume: "db", Name: "mine"}))
	f.A.WriteFile("db", "token", "second")
	for i, to := range []*agenttest.Host{f.B, f.A, f.B} {
		from := f.Other(to)
		f.Move("db", to)
		v := f.Recorded("db")
		if v.Home != to.Node() || v.Epoch != uint64(2+i) || v.Move != uuid.Nil || len(v.Copies) != 1 || v.Copies[0] != from.Node() {
			t.Errorf("on record: %+v", v)
		}
		agenttest.Await(t, func() bool { // the report of its status
			v, err := f.Client.Volume(t.Context(), d.ID.String())
			return err == nil && v.Status != nil && v.Status.InPool != nil && *v.Status.InPool > 0
		})
		from.AwaitSettled(d.ID)
		to.WantFile("db", "token", "second")
		e, err := to.Pool().Stat(t.Context(), d.ID)
		if err != nil || e.State != backends.EntryReady || e.Problem != "" {
			t.Errorf("%+v, %v", e, err)
		}
		if e.Record == nil || e.Record.Epoch != v.Epoch || e.Record.Home != to.Node() {
			t.Errorf("beside the data: %+v", e.Record)
		}
	}
	require.NoError(t, f.B.Perform(t.Context(), api.Request{Kind: dataset.OpRestore, Volume: "db", Snapshot: "mine"}))
	f.B.WantFile("db", "token", "first")
	if list, err := f.A.Doctor(t.Context()); err != nil {
		t.Error(err)
	} else {
		for _, l := range list {
			if (l.Level == api.LevelWarning || l.Level == api.LevelError) && !strings.Contains(l.Text, "its data is in memory") {
				t.Errorf("doctor: %+v", l)
			}
		}
	}
}

// The snapshot that was copied while the volume could have been in use is the last one if nothing was written since.
// Otherwise another snapshot is taken.
func TestMoveReusesUnchangedSnapshot(t *testing.T) {
	t.Parallel()
	f := agenttest.NewCluster(t, "loop", "loop")
	f.A.NewVolume("db", map[string]string{"size": "320MiB"})
	f.A.WriteFile("db", "token", "first")
	for i, written := range []bool{false, true} {
		from, to := []*agenttest.Host{f.A, f.B}[i], []*agenttest.Host{f.B, f.A}[i]
		taken, want := 0, "first"
		from.Fuse.Set(-1, false, func(act string) {
			if act == "snapshot" {
				taken++
			}
		})
		to.Fuse.Set(-1, false, func(act string) {
			if act == "recall" && written {
				from.WriteFile("db", "token", "second")
			}
		})
		f.Move("db", to)
		if written {
			want = "second"
		}
		to.WantFile("db", "token", want)
		from.AwaitSettled(f.Recorded("db").ID)
		if n := map[bool]int{false: 1, true: 2}[written]; taken != n {
			t.Errorf("written to meanwhile %v: %d snapshots were taken, want %d", written, taken, n)
		}
	}
}

// The copy that a move leaves behind can be continued from at the epoch that was relinquished, even if nothing was
// written since an earlier epoch: after moves in both directions, and after a move that ended early.
func TestLeftCopyOfIdleVolumeIsUsable(t *testing.T) {
	t.Parallel()
	for name, before := range map[string]func(*agenttest.Cluster){
		"moved to and fro": func(f *agenttest.Cluster) {
			f.Move("db", f.B)
			f.A.AwaitSettled(f.Recorded("db").ID)
			f.Move("db", f.A)
			f.B.AwaitSettled(f.Recorded("db").ID)
		},
		"given up in vain": func(f *agenttest.Cluster) {
			begun := make(chan dataset.Operation, 1)
			f.B.Fuse.Set(-1, false, func(act string) {
				if act != "promote" {
					return
				}
				op := <-begun
				if _, err := f.Service.CancelOperation(context.Background(), op.ID.String()); err != nil {
					f.Error(err)
				}
			})
			op := f.BeginMove("db", f.B)
			begun <- op
			if op = f.AwaitEnd(op); op.State != dataset.OpCancelled {
				f.Fatalf("%s: %+v", op.State, op.Problem)
			}
			agenttest.Await(f.T, func() bool { return f.A.WouldOpen(op.DatasetID) && !f.B.MoveTable.IsActive(op.DatasetID) })
			f.B.Fuse.Set(-1, false, nil)
		},
	} {
		for _, profile := range []string{"plain", "safe"} {
			t.Run(name+", "+profile, func(t *testing.T) {
				f := agenttest.NewCluster(t, "loop", "loop")
				f.MayFailWith = "requires replicas on more nodes" // once its home was superseded
				d := f.A.NewVolume("db", map[string]string{"size": "320MiB", "profile": profile})
				f.A.WriteFile("db", "token", "all of it")
				before(f)
				epoch := f.Recorded("db").Epoch
				f.Move("db", f.B)
				f.A.AwaitSettled(d.ID)
				if epoch < 2 {
					t.Errorf("it was left at epoch %d already", epoch)
				}
				if profile == "safe" { // the copy is fresh, even if nothing is written
					agenttest.Await(t, func() bool {
						v := f.Recorded("db")
						return len(v.CopyDetails) == 1 && !v.CopyDetails[0].VerifiedAtHome.IsZero()
					})
				}
				f.B.Stop()
				out, err := f.Service.Submit(t.Context(), api.Request{ID: uuid.New(), Kind: dataset.OpMove, Volume: "db", Node: "host-a", Force: true, Fenced: "host-b"})
				require.NoError(t, err)
				if op := f.AwaitEnd(*out.Operation); op.State != dataset.OpDone {
					t.Fatalf("%s: %+v", op.State, op.Problem)
				}
				f.A.WantFile("db", "token", "all of it")
			})
		}
	}
}

// lastSnapshotHangs returns a cluster that waits 400 ms for volumes in use. The home of its volume hangs before the
// last snapshot of a move, until goOn is called.
func lastSnapshotHangs(t *testing.T) (f *agenttest.Cluster, d dataset.Dataset, goOn func()) {
	t.Helper()
	f = agenttest.NewCluster(t, "loop", "loop")
	for _, h := range []*agenttest.Host{f.A, f.B} {
		h.Config.Timing.InUseWait = 400 * time.Millisecond
		h.Restart()
	}
	d = f.A.NewVolume("db", map[string]string{"size": "320MiB"})
	f.A.WriteFile("db", "token", "old")
	release := make(chan struct{})
	goOn = sync.OnceFunc(func() { close(release) })
	t.Cleanup(goOn)
	f.A.Fuse.Set(-1, false, func(act string) {
		if _, given := f.A.Leases.Relinquished(d.ID); given && act == "snapshot" {
			<-release
		}
	})
	f.B.Fuse.Set(-1, false, func(act string) {
		if act == "recall" { // so that the manifest is not empty
			f.A.WriteFile("db", "token", "new")
		}
	})
	return f, d, goOn
}

// A home may need longer to compute the manifest of what it relinquishes than a move waits for a volume in use. It
// reports that, and the move waits.
func TestMoveWaitsForSlowManifest(t *testing.T) {
	t.Parallel()
	f, _, goOn := lastSnapshotHangs(t)
	op := f.BeginMove("db", f.B)
	agenttest.Await(t, func() bool { return slices.Equal(f.Operation(op.ID).InUseBy, []string{dataset.Relinquishing}) })
	until := time.Now().Add(3 * f.B.Timing.InUseWait)
	agenttest.Await(t, func() bool { return time.Now().After(until) || f.Operation(op.ID).State.Final() })
	if now := f.Operation(op.ID); now.State.Final() {
		t.Errorf("%s: %+v", now.State, now.Problem)
	}
	goOn()
	if op = f.AwaitEnd(op); op.State != dataset.OpDone || len(op.InUseBy) > 0 {
		t.Errorf("%s, %v: %+v", op.State, op.InUseBy, op.Problem)
	}
}

// A home that hangs while it relinquishes a volume reports that in the end, and the move ends. Once the home
// continues, the volume is usable there again. After a successful move the home keeps nothing of the attempt.
func TestMoveEndsWhenHomeHangs(t *testing.T) {
	t.Parallel()
	f, d, goOn := lastSnapshotHangs(t)
	op := f.AwaitEnd(f.BeginMove("db", f.B))
	if op.State != dataset.OpFailed || !strings.Contains(op.Problem.Message, "the disk of pool default may hang") {
		t.Fatalf("%s: %+v", op.State, op.Problem)
	}
	goOn()
	f.B.Fuse.Set(-1, false, nil)
	agenttest.Await(t, func() bool { _, given := f.A.Leases.Relinquished(d.ID); return !given })
	f.A.WantFile("db", "token", "new")
	op = f.AwaitEnd(f.BeginMove("db", f.B))
	if op.State != dataset.OpDone {
		t.Fatalf("%s: %+v", op.State, op.Problem)
	}
	f.A.AwaitSettled(d.ID)
	if _, sent := f.A.TransferServer.Sent(f.B.Node(), dataset.Snapshot{ID: op.Manifest.Snapshot, Dataset: d.ID}); sent {
		t.Error("it still knows what it sent")
	}
}

// The transfer rate of a host is one limit for everything that it sends and receives.
func TestTransferRateLimitsAllTransfers(t *testing.T) {
	t.Parallel()
	f := agenttest.NewCluster(t, "loop", "loop")
	if f.A.TransferServer.Limit != nil || f.A.TransferClient.Limit != nil {
		t.Error("limited, though nothing is said of it")
	}
	f.A.Stop()
	f.A.Config.TransferRate = 1 << 20
	f.A.Start()
	if f.A.TransferServer.Limit == nil || f.A.TransferServer.Limit != f.A.TransferClient.Limit {
		t.Errorf("sends by %p, receives by %p", f.A.TransferServer.Limit, f.A.TransferClient.Limit)
	}
}

// asks counts the requests of a host to other nodes, by the last element of the path.
type asks struct {
	http.RoundTripper
	asked map[string]int // in the order of the requests
}

func (a asks) RoundTrip(r *http.Request) (*http.Response, error) {
	a.asked[path.Base(r.URL.Path)]++
	return a.RoundTripper.RoundTrip(r)
}

// The data of an unused volume is copied once, however much it is. For a volume in use, the second round transfers
// what was written during the first round.
func TestMoveOfIdleVolumeCopiesOnce(t *testing.T) {
	t.Parallel()
	f := agenttest.NewCluster(t, "loop", "loop")
	f.A.Config.Timing.InUseWait = time.Minute
	f.A.NewVolume("db", map[string]string{"size": "320MiB"})
	for i, used := range []bool{false, true} {
		from, to := []*agenttest.Host{f.A, f.B}[i], []*agenttest.Host{f.B, f.A}[i]
		count := asks{to.Config.PeerHTTP, map[string]int{}}
		to.Config.PeerHTTP = count
		to.Restart()
		from.WriteFile("db", "much", string(treetest.Bytes(uint64(i), move.LastRoundBytes+1<<20)))
		if used {
			from.MustMount("db", "user")
			to.Fuse.Set(-1, false, func(act string) {
				if act == "recall" {
					from.MustUnmount("db", "user")
				}
			})
		}
		f.Move("db", to)
		from.AwaitSettled(f.Recorded("db").ID)
		if n, want := count.asked["freshen"], i+1; n != want {
			t.Errorf("used %v: its home is asked for %d snapshots, want %d", used, n, want)
		}
	}
}

// Snapshots that a user removed on the earlier home do not return with the volume. Snapshots for other nodes that are
// no longer needed are removed as well, once the volume is on its new home.
func TestRemovedSnapshotsDoNotReturn(t *testing.T) {
	t.Parallel()
	f := agenttest.NewCluster(t, "loop", "loop")
	d := f.A.NewVolume("db", map[string]string{"size": "320MiB"})
	f.A.WriteFile("db", "token", "first")
	require.NoError(t, f.A.Perform(t.Context(), api.Request{Kind: dataset.OpSnapshot, Volume: "db", Name: "mine"}))
	has := func(h *agenttest.Host) (kinds []dataset.SnapshotKind, ids []uuid.UUID) {
		e, err := h.Pool().Stat(t.Context(), d.ID)
		require.NoError(t, err)
		for _, s := range e.Snapshots {
			kinds, ids = append(kinds, s.Kind), append(ids, s.ID)
		}
		return kinds, ids
	}
	f.Move("db", f.B)
	f.A.AwaitSettled(d.ID)
	_, before := has(f.A)
	require.NoError(t, f.B.Perform(t.Context(), api.Request{Kind: dataset.OpSnapshotDelete, Volume: "db", Snapshot: "mine"}))
	f.B.WriteFile("db", "token", "second")
	f.Move("db", f.A)
	f.B.AwaitSettled(d.ID)
	if kinds, _ := has(f.A); slices.Contains(kinds, dataset.SnapshotManual) {
		t.Errorf("a removed snapshot exists: %v", kinds)
	}
	for range 3 {
		f.A.WriteFile("db", "token", "third")
		f.Move("db", f.B)
		f.A.AwaitSettled(d.ID)
		f.B.WriteFile("db", "token", "fourth")
		f.Move("db", f.A)
		f.B.AwaitSettled(d.ID)
	}
	agenttest.Await(t, func() bool {
		_, ids := has(f.A)
		return !slices.ContainsFunc(before, func(id uuid.UUID) bool { return slices.Contains(ids, id) })
	})
	f.A.WantFile("db", "token", "fourth")
}

// A volume is renamed while a move of it waits for its users. The move continues. Then the new home and the record
// beside the data have the new name and the alias. Both names bring it back.
func TestRenameDuringMove(t *testing.T) {
	t.Parallel()
	f := agenttest.NewCluster(t, "dir", "dir")
	d := f.A.NewVolume("old")
	f.A.WriteFile("old", "token", "of a")
	f.A.MustMount("old", "job")
	op := f.BeginMove("old", f.B)
	agenttest.Await(t, func() bool { _, asked := f.A.Leases.Recall(d.ID); return asked })
	f.Submit(api.Request{Kind: dataset.OpRename, Volume: "old", Name: "new"})
	f.A.MustUnmount("old", "job")
	if op = f.AwaitEnd(op); op.State != dataset.OpDone {
		t.Fatalf("the move: %s: %+v", op.State, op.Problem)
	}
	wantNames := func(h *agenttest.Host) {
		t.Helper()
		v := f.Recorded("old")
		if v.ID != d.ID || v.Home != h.Node() || v.Volume != "new" || !slices.Equal(v.Aliases, []string{"old"}) {
			t.Errorf("the volume is %+v, want it on %s with both names", v.Dataset, h.NodeName)
		}
		agenttest.Await(t, func() bool { // the record beside the data is written in the background
			e, err := h.Pool().Stat(t.Context(), d.ID)
			return err == nil && e.Record != nil && e.Record.Volume == "new" && e.Record.HasName("old")
		})
	}
	wantNames(f.B)
	f.B.WantFile("new", "token", "of a")
	f.B.WriteFile("old", "token", "of b")
	f.A.WantFile("old", "token", "of b") // the mount moves the volume
	wantNames(f.A)
	f.B.WantFile("new", "token", "of b")
	wantNames(f.B)
}

// What the files of a volume use is unknown before its first mount. Then it keeps its value while the volume is
// mounted, after the unmount, after a restart, and after a move. The space that it occupies in its pool is always known.
func TestUsageIsKept(t *testing.T) {
	t.Parallel()
	f := agenttest.NewCluster(t, "loop", "loop")
	d := f.A.NewVolume("db", map[string]string{"size": "320MiB"})
	status := func(h *agenttest.Host) dataset.DatasetStatus {
		now, _ := h.Cache.Dataset(d.ID)
		return h.Status.Status(t.Context(), now)
	}
	if st := status(f.A); st.Used != nil || st.InPool == nil || *st.InPool == 0 {
		t.Errorf("never mounted: %+v", st)
	}
	f.A.MustMount("db", "user")
	st := status(f.A)
	if st.Used == nil || *st.Used == 0 || st.InPool == nil {
		t.Fatalf("mounted: %+v", st)
	}
	want := *st.Used
	check := func(h *agenttest.Host, what string) {
		t.Helper()
		if st := status(h); st.Used == nil || *st.Used != want || st.InPool == nil || *st.InPool == 0 {
			t.Errorf("%s: %+v, want %s used", what, st, want)
		}
	}
	f.A.MustUnmount("db", "user")
	check(f.A, "unmounted")
	f.A.Restart()
	check(f.A, "after a restart")
	f.Move("db", f.B)
	agenttest.Await(t, func() bool { _, known := f.B.Cache.Dataset(d.ID); return known })
	agenttest.Await(t, func() bool { return f.B.Status.Last(d.ID).Used != 0 })
	check(f.B, "moved")
	f.B.Restart()
	check(f.B, "moved, and after a restart")
}
