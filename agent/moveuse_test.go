package agent

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

	"github.com/droverhq/drover/backends"
	"github.com/droverhq/drover/control/api"
	"github.com/droverhq/drover/dataset"
)

// A volume that stays in use is not moved: the error names the node and the mount IDs,
// its users go on, and it can be mounted by others again (A5, I11).
func TestI11MoveInUse(t *testing.T) {
	t.Parallel()
	f := newFlock(t, "loop", "loop")
	d := f.a.volume("db", map[string]string{"size": "320MiB"})
	web := strings.Repeat("1234abcd", 8) // as Docker's IDs are
	f.a.mounts("db", web)
	f.a.mounts("db", "job")
	op := f.begins("db", f.b)
	await(t, func() bool { _, asked := f.a.leases.Recall(d.ID); return asked })
	if _, err := f.a.Mount(t.Context(), "db", "new"); !errors.Is(err, dataset.ErrInUse) ||
		!strings.Contains(err.Error(), "being moved to node host-b by operation "+op.ID.String()[:8]) {
		t.Errorf("a new mount while it is recalled: %v", err)
	}
	f.a.mounts("db", "job") // docker cp mounts again with the ID of the container
	f.a.unmounts("db", "job")
	op = f.ended(op)
	if op.State != dataset.OpFailed || op.Problem.Code != dataset.ErrInUse.Code ||
		!strings.Contains(op.Problem.Message, "it is mounted by 1234abcd1234, job on node host-a (stop its containers there first; docker ps -a --filter volume=db --filter volume=db@") {
		t.Errorf("%+v: %+v", op.State, op.Problem)
	}
	v := f.record("db")
	if v.Home != f.a.Node() || v.Epoch != 1 || v.Lease.State != dataset.LeaseHeld || v.Move != uuid.Nil {
		t.Errorf("%+v, %+v", v.Dataset, v.Lease)
	}
	await(t, func() bool { _, asked := f.a.leases.Recall(d.ID); return !asked })
	f.a.mounts("db", "new")
	for _, id := range []string{"new", "job", web} {
		f.a.unmounts("db", id)
	}
	f.moves("db", f.b)
	f.b.mounts("db", "there")
	f.b.unmounts("db", "there")
}

// Who stops the containers while a move waits has it go through (A5).
func TestMoveGoesOnWithTheLastUnmount(t *testing.T) {
	t.Parallel()
	f := newFlock(t, "loop", "loop")
	f.a.cfg.Limits.Lease, f.b.cfg.Limits.Lease = time.Minute, time.Minute
	f.b.again()
	d := f.a.volume("db", map[string]string{"size": "320MiB"})
	f.a.writes("db", "token", "old")
	for _, id := range []string{"one", "two"} {
		f.a.mounts("db", id)
	}
	op := f.begins("db", f.b)
	holds := func(ids ...string) func() bool {
		return func() bool {
			now, err := f.svc.Operation(t.Context(), op.ID.String(), 0)
			return err == nil && slices.Equal(now.Holders, ids)
		}
	}
	await(t, holds("one", "two"))
	await(t, func() bool {
		now, err := f.svc.Operation(t.Context(), op.ID.String(), 0)
		return err == nil && strings.HasPrefix(now.Progress.Step, "waiting for up to 1m0s: it is mounted by one, two on node host-a (")
	})
	f.a.unmounts("db", "one")
	await(t, holds("two"))
	f.a.unmounts("db", "two")
	if op = f.ended(op); op.State != dataset.OpDone {
		t.Fatalf("%+v", op.Problem)
	}
	f.a.settled(d.ID)
	if got := f.b.reads("db", "token"); got != "old" {
		t.Errorf("it holds %q", got)
	}
}

// What was given up is opened nowhere until the move has ended: not with control away,
// and not after a restart.
func TestI1GivenUpIsGivenUp(t *testing.T) {
	t.Parallel()
	f := newFlock(t, "loop", "loop")
	d := f.a.volume("db", map[string]string{"size": "320MiB"})
	f.a.writes("db", "token", "old")
	gone := f.b.dies("promote", 1)
	op := f.begins("db", f.b)
	died(t, gone)
	await(t, func() bool { y, given := f.a.leases.Relinquished(d.ID); return given && y.Told })
	refused := func(when string) {
		t.Helper()
		if _, err := f.a.Mount(t.Context(), "db", "x"); !errors.Is(err, dataset.ErrInUse) {
			t.Errorf("mount %s: %v", when, err)
		}
		for _, req := range []api.Request{
			{Kind: dataset.OpSnapshot, Volume: "db"}, {Kind: dataset.OpDelete, Volume: "db"}, {Kind: dataset.OpResize, Volume: "db", Size: "400MiB"},
		} {
			if err := f.a.requests.Perform(t.Context(), req); err == nil {
				t.Errorf("%s %s was done", req.Kind, when)
			}
		}
	}
	refused("while it moves")
	f.a.again()
	refused("after a restart")
	f.a.cfg.Control = away{f.link}
	f.a.again()
	refused("after a restart with control away")
	f.a.cfg.Control = fusedControl{f.link, f.a}
	f.a.again()
	// The target comes back and brings it to its end.
	f.b.again()
	if op = f.ended(op); op.State != dataset.OpDone {
		t.Fatalf("%+v", op.Problem)
	}
	f.a.settled(d.ID)
	if got := f.b.reads("db", "token"); got != "old" {
		t.Errorf("it holds %q", got)
	}
	if _, err := f.a.Mount(t.Context(), "db", "x"); err != nil && !errors.Is(err, dataset.ErrInUse) {
		t.Errorf("it does not come back: %v", err)
	}
}

// dies has a host die at the n-th act of a name from now, after it.
func (h *flockHost) dies(act string, n int) (gone <-chan struct{}) {
	h.fuse.mu.Lock()
	defer h.fuse.mu.Unlock()
	h.fuse.gone = make(chan struct{})
	h.fuse.at, h.fuse.nth, h.fuse.late, h.fuse.dead = act, n, true, false
	return h.fuse.gone
}

// A mount on another node has the volume follow: any number of them at once are one
// move.
func TestMountElsewhere(t *testing.T) {
	t.Parallel()
	f := newFlock(t, "loop", "loop")
	d := f.a.volume("db", map[string]string{"size": "320MiB"})
	f.a.writes("db", "token", "old")
	var all sync.WaitGroup
	for range 20 {
		all.Go(func() {
			if _, err := f.b.Mount(t.Context(), "db", uuid.NewString()); err != nil {
				t.Error(err)
			}
		})
	}
	all.Wait()
	f.a.settled(d.ID)
	moves := 0
	ops, err := f.svc.Operations(t.Context(), api.Page{})
	for _, op := range ops.Items {
		if op.Kind == dataset.OpMove {
			moves++
		}
	}
	if err != nil || moves != 1 || len(f.b.uses.Get(d.ID).IDs) != 20 {
		t.Errorf("%d moves, %d uses, %v", moves, len(f.b.uses.Get(d.ID).IDs), err)
	}
	// In use there, the home says who holds it.
	if _, err := f.a.Mount(t.Context(), "db", "x"); !errors.Is(err, dataset.ErrInUse) || !strings.Contains(err.Error(), "on node host-b") {
		t.Errorf("mount where it is not: %v", err)
	}
}

// A profile that lets a volume follow nobody, or not so far, has the command in its
// refusal; nothing moves.
func TestFollowAsTheProfileSays(t *testing.T) {
	t.Parallel()
	f := newFlock(t, "loop", "loop")
	for name, want := range map[string]string{"never": "lets it follow nobody", "hurry": "more than its profile lets it follow within 1ns"} {
		f.a.volume(name+"@"+name, map[string]string{"size": "320MiB"})
		await(t, func() bool { return f.record(name).Status != nil })
		_, err := f.b.Mount(t.Context(), name, "x")
		if !errors.Is(err, dataset.ErrUnsupported) || !strings.Contains(err.Error(), want) || !strings.Contains(err.Error(), "drover volume move "+name+" host-b") {
			t.Errorf("%s: %v", name, err)
		}
		if v := f.record(name); v.Move != uuid.Nil || v.Home != f.a.Node() {
			t.Errorf("%s: %+v", name, v.Dataset)
		}
		f.moves(name, f.b)
	}
}

// A mount that would wait too long says which operation goes on; asked again it finds
// that done (I8).
func TestI8MountWhileItMoves(t *testing.T) {
	t.Parallel()
	f := newFlock(t, "loop", "loop")
	f.b.cfg.Limits.Follow, f.b.cfg.Limits.Lease = 50*time.Millisecond, time.Minute
	f.b.again()
	f.a.volume("db", map[string]string{"size": "320MiB"})
	f.a.mounts("db", "holder")
	_, err := f.b.Mount(t.Context(), "db", "x")
	if !errors.Is(err, dataset.ErrPending) || !strings.Contains(err.Error(), "goes on as operation "+f.record("db").Move.String()[:8]) {
		t.Errorf("%v", err)
	}
	f.a.unmounts("db", "holder")
	await(t, func() bool { return f.record("db").Home == f.b.Node() })
	f.b.mounts("db", "x")
	f.b.unmounts("db", "x")
}

// A home that is away has the way out in the error (A6).
func TestMoveWithTheHomeAway(t *testing.T) {
	t.Parallel()
	f := newFlock(t, "loop", "loop")
	f.a.volume("db", map[string]string{"size": "320MiB"})
	f.wires.setCut(true)
	_, err := f.b.Mount(t.Context(), "db", "x")
	if !errors.Is(err, dataset.ErrOffline) || !strings.Contains(err.Error(), "drover volume move db host-b --force --fenced host-a") {
		t.Errorf("%v", err)
	}
	v := f.record("db")
	if v.Home != f.a.Node() || v.Epoch != 1 || v.Move != uuid.Nil {
		t.Errorf("%+v", v.Dataset)
	}
	f.a.mounts("db", "x") // it goes on where it is
	f.a.unmounts("db", "x")
}

// A cancelled move leaves its home as it was, whatever it has come to, and a later one
// goes through.
func TestMoveCancelled(t *testing.T) {
	t.Parallel()
	for act, epoch := range map[string]uint64{"receive": 1, "recall": 1, "promote": 2} {
		t.Run(act, func(t *testing.T) {
			f := newFlock(t, "loop", "loop")
			d := f.a.volume("db", map[string]string{"size": "320MiB"})
			f.a.writes("db", "token", "old")
			var op dataset.Operation
			var once sync.Once
			began := make(chan struct{})
			f.b.fuse.set(-1, false, func(now string) {
				if now == act {
					once.Do(func() {
						<-began
						if _, err := f.svc.CancelOperation(context.Background(), op.ID.String()); err != nil {
							t.Error(err)
						}
					})
				}
			})
			op = f.begins("db", f.b)
			close(began)
			if op = f.ended(op); op.State != dataset.OpCancelled {
				t.Fatalf("%s: %+v", op.State, op.Problem)
			}
			await(t, func() bool { return len(f.b.Jobs.Running()) == 0 })
			if act == "recall" { // it may have been given up in that moment
				epoch = f.record("db").Epoch
			}
			await(t, func() bool {
				dd, ok := f.a.Cache.Dataset(d.ID)
				return ok && dd.Epoch == epoch && f.a.leases.MayOpen(dd, "mount") == nil
			})
			if got := f.a.reads("db", "token"); got != "old" {
				t.Errorf("it holds %q", got)
			}
			if e, err := f.b.thePool().Stat(t.Context(), d.ID); err == nil && (e.State != backends.EntryCopy || e.Promoted) {
				t.Errorf("the target has %+v", e)
			}
			f.a.writes("db", "token", "new")
			f.moves("db", f.b)
			if got := f.b.reads("db", "token"); got != "new" {
				t.Errorf("moved it holds %q", got)
			}
		})
	}
}

// A volume leaves a pool that has no room for snapshots any more: that is how to make
// room there.
func TestMoveFromAFullPool(t *testing.T) {
	t.Parallel()
	f := newFlock(t, "loop", "loop")
	f.a.volume("db", map[string]string{"size": "320MiB"})
	f.a.writes("db", "token", "old")
	pool := f.a.cfg.Pools[0].Path
	var fs unix.Statfs_t
	if err := unix.Statfs(pool, &fs); err != nil {
		t.Fatal(err)
	}
	filler, err := os.Create(filepath.Join(filepath.Dir(pool), "filler"))
	if err == nil {
		err = unix.Fallocate(int(filler.Fd()), 0, 0, int64(fs.Bfree)*fs.Bsize-(8<<20))
	}
	if err := errors.Join(err, filler.Close()); err != nil {
		t.Fatal(err)
	}
	if err := f.a.requests.Perform(t.Context(), api.Request{Kind: dataset.OpSnapshot, Volume: "db"}); !errors.Is(err, dataset.ErrNoSpace) {
		t.Fatalf("the pool is not full: %v", err)
	}
	f.moves("db", f.b)
	if got := f.b.reads("db", "token"); got != "old" {
		t.Errorf("it holds %q", got)
	}
}

// What is asked of a node that is not the home is done by the home.
func TestAskedElsewhere(t *testing.T) {
	t.Parallel()
	f := newFlock(t, "loop", "loop")
	f.a.volume("db", map[string]string{"size": "320MiB"})
	if err := f.b.Create(t.Context(), "db", nil); err != nil {
		t.Errorf("create of what is there: %v", err)
	}
	f.a.mounts("db", "user")
	if err := f.b.Remove(t.Context(), "db"); !errors.Is(err, dataset.ErrInUse) {
		t.Errorf("remove of what is in use on its home: %v", err)
	}
	f.a.unmounts("db", "user")
	if err := f.b.Remove(t.Context(), "db"); err != nil {
		t.Errorf("remove: %v", err)
	}
	if _, err := f.a.Get(t.Context(), "db"); !errors.Is(err, dataset.ErrNotFound) {
		t.Errorf("%v", err)
	}
	if list, err := f.b.List(t.Context()); err != nil || len(list) != 0 {
		t.Errorf("%+v, %v", list, err)
	}
}

// How long a move takes is expected from what the target lacks, where it has a copy.
func TestExpectedOfACopy(t *testing.T) {
	t.Parallel()
	f := newFlock(t, "loop", "loop")
	d := f.a.volume("db", map[string]string{"size": "320MiB"})
	f.a.writes("db", "big", strings.Repeat("0123456789abcdef", 16<<20/16))
	heard := func() bool { st := f.record("db").Status; return st != nil && st.Used >= 16<<20 }
	await(t, heard)
	before, how, err := f.b.bringer.Expect(t.Context(), f.record("db").Dataset)
	if err != nil || before == 0 || !strings.Contains(how, "assumed") {
		t.Errorf("%s, %s, %v", before, how, err)
	}
	f.moves("db", f.b)
	f.a.settled(d.ID)
	f.b.writes("db", "small", "x")
	await(t, heard)
	after, how, err := f.a.bringer.Expect(t.Context(), f.record("db").Dataset)
	if err != nil || after == 0 || 4*after > before {
		t.Errorf("back %s (%s), there %s, %v", after, how, before, err)
	}
}

// A volume that is mounted in another place of its home still, where nobody asked the agent
// for it, is not given up: somebody may write there, and what was written may not be in the
// pool yet.
func TestMoveOfWhatIsMountedElsewhere(t *testing.T) {
	t.Parallel()
	f := newFlock(t, "loop", "loop")
	f.a.volume("db", map[string]string{"size": "320MiB"})
	elsewhere := t.TempDir()
	if err := unix.Mount(f.a.mounts("db", "web"), elsewhere, "", unix.MS_BIND, ""); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { unix.Unmount(elsewhere, unix.MNT_DETACH) })
	f.a.unmounts("db", "web")
	if err := os.WriteFile(filepath.Join(elsewhere, "token"), []byte("late"), 0o600); err != nil {
		t.Fatal(err)
	}
	op := f.ended(f.begins("db", f.b))
	if op.State != dataset.OpFailed || op.Problem.Code != dataset.ErrInUse.Code || !strings.Contains(op.Problem.Message, elsewhere) {
		t.Errorf("%s: %+v", op.State, op.Problem)
	}
	if err := unix.Unmount(elsewhere, 0); err != nil {
		t.Fatal(err)
	}
	f.moves("db", f.b)
	if got := f.b.reads("db", "token"); got != "late" {
		t.Errorf("it arrived with %q", got)
	}
}
