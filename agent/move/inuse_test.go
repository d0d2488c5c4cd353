package move_test

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/uuid"
	"golang.org/x/sys/unix"

	"github.com/droverhq/drover/agent/agenttest"
	"github.com/droverhq/drover/backends"
	"github.com/droverhq/drover/control/api"
	"github.com/droverhq/drover/dataset"
	"github.com/droverhq/drover/test/assert"
	"github.com/droverhq/drover/test/require"
)

// A volume that stays in use is not moved. The error names the node and the mount IDs, its users continue, and it can
// be mounted by others again (A5, I11).
func TestI11VolumeInUseIsNotMoved(t *testing.T) {
	t.Parallel()
	f := agenttest.NewCluster(t, "loop", "loop")
	d := f.A.NewVolume("db", map[string]string{"size": "320MiB"})
	web := strings.Repeat("1234abcd", 8) // like Docker's IDs
	f.SetNames("db", "db", "was")        // its containers may use the alias
	f.A.MustMount("db", web)
	f.A.MustMount("db", "job")
	op := f.BeginMove("db", f.B)
	agenttest.Await(t, func() bool { _, asked := f.A.Leases.Recall(d.ID); return asked })
	if _, err := f.A.Mount(t.Context(), "db", "new"); !errors.Is(err, dataset.ErrInUse) ||
		!strings.Contains(err.Error(), "being moved to node host-b by operation "+op.ID.String()[:8]) {
		t.Errorf("a new mount while it is recalled: %v", err)
	}
	f.A.MustMount("db", "job") // docker cp mounts again with the ID of the container
	f.A.MustUnmount("db", "job")
	op = f.AwaitEnd(op)
	if op.State != dataset.OpFailed || op.Problem.Code != dataset.ErrInUse.Code ||
		!strings.Contains(op.Problem.Message, "it is mounted by 1234abcd1234, job on node host-a (stop its containers there first; docker ps -a --filter volume=db --filter volume=db@") ||
		!strings.Contains(op.Problem.Message, " --filter volume=was --filter volume=was@") {
		t.Errorf("%+v: %+v", op.State, op.Problem)
	}
	v := f.Recorded("db")
	if v.Home != f.A.Node() || v.Epoch != 1 || v.Lease.State != dataset.LeaseHeld || v.Move != uuid.Nil {
		t.Errorf("%+v, %+v", v.Dataset, v.Lease)
	}
	agenttest.Await(t, func() bool { _, asked := f.A.Leases.Recall(d.ID); return !asked })
	f.A.MustMount("db", "new")
	for _, id := range []string{"new", "job", web} {
		f.A.MustUnmount("db", id)
	}
	f.Move("db", f.B)
	f.B.MustMount("db", "there")
	f.B.MustUnmount("db", "there")
}

// If the containers are stopped while a move waits, the move succeeds (A5).
func TestMoveContinuesAfterLastUnmount(t *testing.T) {
	t.Parallel()
	f := agenttest.NewCluster(t, "loop", "loop")
	f.A.Config.Timing.InUseWait, f.B.Config.Timing.InUseWait = time.Minute, time.Minute
	f.B.Restart()
	d := f.A.NewVolume("db", map[string]string{"size": "320MiB"})
	f.A.WriteFile("db", "token", "old")
	for _, id := range []string{"one", "two"} {
		f.A.MustMount("db", id)
	}
	op := f.BeginMove("db", f.B)
	holds := func(ids ...string) func() bool {
		return func() bool {
			now, err := f.Service.Operation(t.Context(), op.ID.String(), 0)
			return err == nil && slices.Equal(now.InUseBy, ids)
		}
	}
	agenttest.Await(t, holds("one", "two"))
	agenttest.Await(t, func() bool {
		now, err := f.Service.Operation(t.Context(), op.ID.String(), 0)
		return err == nil && strings.HasPrefix(now.Progress.Step, "waiting for up to 1m0s: it is mounted by one, two on node host-a (")
	})
	f.A.MustUnmount("db", "one")
	agenttest.Await(t, holds("two"))
	f.A.MustUnmount("db", "two")
	if op = f.AwaitEnd(op); op.State != dataset.OpDone {
		t.Fatalf("%+v", op.Problem)
	}
	f.A.AwaitSettled(d.ID)
	f.B.WantFile("db", "token", "old")
}

// A relinquished volume is opened nowhere until the move has ended: not while control is unreachable, and not after a
// restart.
func TestI1RelinquishedVolumeIsNotOpened(t *testing.T) {
	t.Parallel()
	f := agenttest.NewCluster(t, "loop", "loop")
	d := f.A.NewVolume("db", map[string]string{"size": "320MiB"})
	f.A.WriteFile("db", "token", "old")
	gone := f.B.DieAfter("promote", 1)
	op := f.BeginMove("db", f.B)
	agenttest.AwaitDeath(t, gone)
	agenttest.Await(t, func() bool { y, given := f.A.Leases.Relinquished(d.ID); return given && y.Reported })
	refused := func(when string) {
		t.Helper()
		if _, err := f.A.Mount(t.Context(), "db", "x"); !errors.Is(err, dataset.ErrInUse) {
			t.Errorf("mount %s: %v", when, err)
		}
		for _, req := range []api.Request{
			{Kind: dataset.OpSnapshot, Volume: "db"}, {Kind: dataset.OpDelete, Volume: "db"}, {Kind: dataset.OpResize, Volume: "db", Size: "400MiB"},
		} {
			if err := f.A.Perform(t.Context(), req); err == nil {
				t.Errorf("%s %s was done", req.Kind, when)
			}
		}
	}
	refused("while it moves")
	f.A.Restart()
	refused("after a restart")
	f.A.Config.Control = agenttest.UnreachableControl{Service: f.Client}
	f.A.Restart()
	refused("after a restart with control away")
	f.A.Config.Control = agenttest.FusedControl{Service: f.Client, Host: f.A}
	f.A.Restart()
	// The target starts again and completes the move.
	f.B.Restart()
	if op = f.AwaitEnd(op); op.State != dataset.OpDone {
		t.Fatalf("%+v", op.Problem)
	}
	f.A.AwaitSettled(d.ID)
	f.B.WantFile("db", "token", "old")
	if _, err := f.A.Mount(t.Context(), "db", "x"); err != nil && !errors.Is(err, dataset.ErrInUse) {
		t.Errorf("it does not come back: %v", err)
	}
}

// A mount on another node moves the volume there. Any number of mounts at once share one move.
func TestMountOnOtherNodeMovesVolume(t *testing.T) {
	t.Parallel()
	f := agenttest.NewCluster(t, "loop", "loop")
	d := f.A.NewVolume("db", map[string]string{"size": "320MiB"})
	f.A.WriteFile("db", "token", "old")
	var all sync.WaitGroup
	for range 20 {
		all.Go(func() {
			_, err := f.B.Mount(t.Context(), "db", uuid.NewString())
			assert.NoError(t, err)
		})
	}
	all.Wait()
	f.A.AwaitSettled(d.ID)
	moves := 0
	ops, err := f.Service.Operations(t.Context(), api.Page{})
	for _, op := range ops.Items {
		if op.Kind == dataset.OpMove {
			moves++
		}
	}
	if err != nil || moves != 1 || len(f.B.Uses.Get(d.ID).IDs) != 20 {
		t.Errorf("%d moves, %d uses, %v", moves, len(f.B.Uses.Get(d.ID).IDs), err)
	}
	// If the volume is in use on its home, the home names the users.
	if _, err := f.A.Mount(t.Context(), "db", "x"); !errors.Is(err, dataset.ErrInUse) || !strings.Contains(err.Error(), "on node host-b") {
		t.Errorf("mount where it is not: %v", err)
	}
}

// If a profile lets a volume follow no mount, or not so far, the refusal names the command, and nothing moves.
func TestFollowObeysProfile(t *testing.T) {
	t.Parallel()
	f := agenttest.NewCluster(t, "loop", "loop")
	for name, want := range map[string]string{"never": "does not allow it to follow a mount", "hurry": "more than follow: within 1ns of its profile allows"} {
		f.A.NewVolume(name+"@"+name, map[string]string{"size": "320MiB"})
		agenttest.Await(t, func() bool { return f.Recorded(name).Status != nil })
		_, err := f.B.Mount(t.Context(), name, "x")
		if !errors.Is(err, dataset.ErrUnsupported) || !strings.Contains(err.Error(), want) || !strings.Contains(err.Error(), "drover volume move "+name+" host-b") {
			t.Errorf("%s: %v", name, err)
		}
		if v := f.Recorded(name); v.Move != uuid.Nil || v.Home != f.A.Node() {
			t.Errorf("%s: %+v", name, v.Dataset)
		}
		f.Move(name, f.B)
	}
}

// A mount that would wait too long names the operation in progress. A retry finds the operation done (I8).
func TestI8MountDuringMove(t *testing.T) {
	t.Parallel()
	f := agenttest.NewCluster(t, "loop", "loop")
	f.B.Config.Timing.MoveWait, f.B.Config.Timing.InUseWait = 50*time.Millisecond, time.Minute
	f.B.Restart()
	f.A.NewVolume("db", map[string]string{"size": "320MiB"})
	f.A.MustMount("db", "holder")
	_, err := f.B.Mount(t.Context(), "db", "x")
	if !errors.Is(err, dataset.ErrPending) || !strings.Contains(err.Error(), "continues as operation "+f.Recorded("db").Move.String()[:8]) {
		t.Errorf("%v", err)
	}
	f.A.MustUnmount("db", "holder")
	agenttest.Await(t, func() bool { return f.Recorded("db").Home == f.B.Node() })
	f.B.MustMount("db", "x")
	f.B.MustUnmount("db", "x")
}

// If the home is unreachable, the error says what to do (A6).
func TestMoveWithUnreachableHome(t *testing.T) {
	t.Parallel()
	f := agenttest.NewCluster(t, "loop", "loop")
	f.A.NewVolume("db", map[string]string{"size": "320MiB"})
	f.Network.SetCut(true)
	_, err := f.B.Mount(t.Context(), "db", "x")
	if !errors.Is(err, dataset.ErrOffline) || !strings.Contains(err.Error(), "drover volume move db host-b --force --fenced host-a") {
		t.Errorf("%v", err)
	}
	v := f.Recorded("db")
	if v.Home != f.A.Node() || v.Epoch != 1 || v.Move != uuid.Nil {
		t.Errorf("%+v", v.Dataset)
	}
	f.A.MustMount("db", "x") // the volume continues on its home
	f.A.MustUnmount("db", "x")
}

// A cancelled move leaves its home unchanged, whatever step it has reached, and a later move succeeds.
func TestCancelledMoveLeavesHomeUnchanged(t *testing.T) {
	t.Parallel()
	for act, epoch := range map[string]uint64{"receive": 1, "recall": 1, "promote": 2} {
		t.Run(act, func(t *testing.T) {
			f := agenttest.NewCluster(t, "loop", "loop")
			d := f.A.NewVolume("db", map[string]string{"size": "320MiB"})
			f.A.WriteFile("db", "token", "old")
			var op dataset.Operation
			var once sync.Once
			began := make(chan struct{})
			f.B.Fuse.Set(-1, false, func(now string) {
				if now == act {
					once.Do(func() {
						<-began
						_, err := f.Service.CancelOperation(context.Background(), op.ID.String())
						assert.NoError(t, err)
					})
				}
			})
			op = f.BeginMove("db", f.B)
			close(began)
			if op = f.AwaitEnd(op); op.State != dataset.OpCancelled {
				t.Fatalf("%s: %+v", op.State, op.Problem)
			}
			agenttest.Await(t, func() bool { return len(f.B.Jobs.Running()) == 0 })
			if act == "recall" { // it may have been relinquished at that moment
				epoch = f.Recorded("db").Epoch
			}
			agenttest.Await(t, func() bool {
				dd, ok := f.A.Cache.Dataset(d.ID)
				return ok && dd.Epoch == epoch && f.A.Leases.MayOpen(dd, "mount") == nil
			})
			f.A.WantFile("db", "token", "old")
			if e, err := f.B.Pool().Stat(t.Context(), d.ID); err == nil && (e.State != backends.EntryCopy || e.Promoted) {
				t.Errorf("the target has %+v", e)
			}
			f.A.WriteFile("db", "token", "new")
			f.Move("db", f.B)
			f.B.WantFile("db", "token", "new")
		})
	}
}

// A volume can leave a pool that has no space for snapshots any more: that is how to make space there.
func TestMoveFromAFullPool(t *testing.T) {
	t.Parallel()
	f := agenttest.NewCluster(t, "loop", "loop")
	f.A.NewVolume("db", map[string]string{"size": "320MiB"})
	f.A.WriteFile("db", "token", "old")
	pool := f.A.Config.Pools[0].Path
	var fs unix.Statfs_t
	require.NoError(t, unix.Statfs(pool, &fs))
	filler, err := os.Create(filepath.Join(filepath.Dir(pool), "filler"))
	if err == nil {
		err = unix.Fallocate(int(filler.Fd()), 0, 0, int64(fs.Bfree)*fs.Bsize-(8<<20))
	}
	require.NoError(t, errors.Join(err, filler.Close()))
	if err := f.A.Perform(t.Context(), api.Request{Kind: dataset.OpSnapshot, Volume: "db"}); !errors.Is(err, dataset.ErrNoSpace) {
		t.Fatalf("the pool is not full: %v", err)
	}
	f.Move("db", f.B)
	f.B.WantFile("db", "token", "old")
}

// A request to a node that is not the home is carried out by the home.
func TestRequestsAreDoneByHome(t *testing.T) {
	t.Parallel()
	f := agenttest.NewCluster(t, "loop", "loop")
	f.A.NewVolume("db", map[string]string{"size": "320MiB"})
	assert.NoErrorf(t, f.B.Create(t.Context(), "db", nil), "create of an existing volume")
	f.A.MustMount("db", "user")
	assert.ErrorIsf(t, f.B.Remove(t.Context(), "db"), dataset.ErrInUse, "remove of a volume that is in use on its home")
	f.A.MustUnmount("db", "user")
	assert.NoErrorf(t, f.B.Remove(t.Context(), "db"), "remove")
	agenttest.Await(t, func() bool { // the home hears of the removal after the node that asked for it
		_, err := f.A.Get(t.Context(), "db")
		return errors.Is(err, dataset.ErrNotFound)
	})
	if list, err := f.B.List(t.Context()); err != nil || len(list) != 0 {
		t.Errorf("%+v, %v", list, err)
	}
}

// The expected duration of a move depends on the data that the target lacks, if the target has a copy.
func TestExpectedDurationConsidersCopy(t *testing.T) {
	t.Parallel()
	f := agenttest.NewCluster(t, "loop", "loop")
	d := f.A.NewVolume("db", map[string]string{"size": "320MiB"})
	f.A.WriteFile("db", "big", strings.Repeat("0123456789abcdef", 16<<20/16))
	heard := func() bool {
		st := f.Recorded("db").Status
		return st != nil && st.InPool != nil && *st.InPool >= 16<<20
	}
	agenttest.Await(t, heard)
	before, how, err := f.B.Estimate(t.Context(), f.Recorded("db").Dataset)
	if err != nil || before == 0 || !strings.Contains(how, "assumed") {
		t.Errorf("%s, %s, %v", before, how, err)
	}
	f.Move("db", f.B)
	f.A.AwaitSettled(d.ID)
	f.B.WriteFile("db", "small", "x")
	agenttest.Await(t, heard)
	after, how, err := f.A.Estimate(t.Context(), f.Recorded("db").Dataset)
	if err != nil || after == 0 || 4*after > before {
		t.Errorf("back %s (%s), there %s, %v", after, how, before, err)
	}
}

// A volume that is still mounted elsewhere on its home, without a request to the agent, is not relinquished: somebody
// may write there, and the data that was written may not be in the pool yet.
func TestMoveOfVolumeMountedOutsideDrover(t *testing.T) {
	t.Parallel()
	f := agenttest.NewCluster(t, "loop", "loop")
	f.A.NewVolume("db", map[string]string{"size": "320MiB"})
	elsewhere := t.TempDir()
	require.NoError(t, unix.Mount(f.A.MustMount("db", "web"), elsewhere, "", unix.MS_BIND, ""))
	t.Cleanup(func() { unix.Unmount(elsewhere, unix.MNT_DETACH) })
	f.A.MustUnmount("db", "web")
	require.NoError(t, os.WriteFile(filepath.Join(elsewhere, "token"), []byte("late"), 0o600))
	op := f.AwaitEnd(f.BeginMove("db", f.B))
	if op.State != dataset.OpFailed || op.Problem.Code != dataset.ErrInUse.Code || !strings.Contains(op.Problem.Message, elsewhere) {
		t.Errorf("%s: %+v", op.State, op.Problem)
	}
	require.NoError(t, unix.Unmount(elsewhere, 0))
	f.Move("db", f.B)
	f.B.WantFile("db", "token", "late")
}
