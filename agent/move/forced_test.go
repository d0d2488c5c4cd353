package move_test

import (
	"context"
	"errors"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/uuid"
	"golang.org/x/sys/unix"

	"github.com/droverhq/drover/agent/agenttest"
	"github.com/droverhq/drover/agent/host"
	"github.com/droverhq/drover/agent/mounting"
	"github.com/droverhq/drover/agent/move"
	"github.com/droverhq/drover/agent/pool"
	"github.com/droverhq/drover/backends"
	"github.com/droverhq/drover/control/api"
	"github.com/droverhq/drover/dataset"
	"github.com/droverhq/drover/internal/scratch"
	"github.com/droverhq/drover/test/assert"
	"github.com/droverhq/drover/test/require"
)

// An operator forces a volume to continue from the copy of another node. The superseded home that returns refuses new
// mounts and leaves the present users alone. Then it keeps its data as a superseded snapshot until an operator
// discards it: nothing is merged, and nothing dropped.
func TestForcedMoveKeepsSupersededHead(t *testing.T) {
	t.Parallel()
	f := agenttest.NewCluster(t, "loop", "loop")
	d := f.A.NewVolume("db", map[string]string{"size": "320MiB"})
	f.A.WriteFile("db", "token", "before")
	f.Move("db", f.B)
	f.A.AwaitSettled(d.ID)
	f.B.WriteFile("db", "token", "lost")
	path := f.B.MustMount("db", "user")
	f.B.Agent.Cancel() // the agent stops, and the mount stays
	f.B.Stop()
	out, err := f.Service.Submit(t.Context(), api.Request{ID: uuid.New(), Kind: dataset.OpMove, Volume: "db", Node: "host-a", Force: true, Fenced: "host-b"})
	if err != nil || out.Operation.Loss == nil {
		t.Fatalf("%+v, %v", out, err)
	}
	if op := f.AwaitEnd(*out.Operation); op.State != dataset.OpDone {
		t.Fatalf("%+v", op.Problem)
	}
	f.A.WantFile("db", "token", "before")

	f.B.Start()
	agenttest.Await(t, func() bool { _, kept := f.B.Cache.Copy(d.ID); return kept })
	if _, err := f.B.AddUse(t.Context(), d, 0, dataset.ParseReference("db"), "new"); !errors.Is(err, dataset.ErrConflict) {
		t.Errorf("a new mount of the superseded volume: %v", err)
	}
	assert.NoErrorf(t, os.WriteFile(filepath.Join(path, "late"), []byte("late"), 0o600), "its user is disturbed")
	inUse := false
	list, err := f.B.Doctor(t.Context())
	for _, l := range list {
		inUse = inUse || l.Level == api.LevelError && strings.Contains(l.Text, "is in use here by 1")
	}
	if err != nil || !inUse {
		t.Errorf("doctor does not say that it is in use: %+v, %v", list, err)
	}
	f.B.MustUnmount("db", "user")
	f.B.AwaitSettled(d.ID)
	agenttest.Await(t, func() bool {
		v := f.Recorded("db")
		return len(v.CopyDetails) == 1 && v.CopyDetails[0].Snapshot != uuid.Nil
	})
	v := f.Recorded("db")
	if len(v.CopyDetails) != 1 || v.CopyDetails[0].Kind != dataset.CopySuperseded || v.CopyDetails[0].Snapshot == uuid.Nil {
		t.Fatalf("kept: %+v", v.CopyDetails)
	}
	agenttest.Await(t, func() bool { return slices.Equal(f.B.SupersededVolumes(), []string{"db"}) })
	kept := v.CopyDetails[0].Snapshot
	if held := f.B.ReadSnapshot(d, kept, "token"); held != "lost" {
		t.Errorf("the superseded copy holds %q", held)
	}
	// It does not become a target before an operator has decided.
	op := f.AwaitEnd(f.BeginMove("db", f.B))
	if op.State != dataset.OpFailed || !strings.Contains(op.Problem.Message, "discard it first") {
		t.Errorf("%s: %+v", op.State, op.Problem)
	}
	if _, err := f.Service.Submit(t.Context(), api.Request{ID: uuid.New(), Kind: dataset.OpDiscard, Volume: "db"}); err != nil {
		t.Fatal(err)
	}
	agenttest.Await(t, func() bool {
		_, err := f.B.Pool().Stat(t.Context(), d.ID)
		return errors.Is(err, dataset.ErrNotFound) && len(f.Recorded("db").CopyDetails) == 0
	})
	f.Move("db", f.B)
}

// Between pools of different backends the files are transferred one by one, with owners, modes, links and holes as
// they were, in both directions.
func TestMoveOfFilesKeepsAttributes(t *testing.T) {
	t.Parallel()
	for _, pools := range [][2]string{{"dir", "loop"}, {"dir", "dir"}, {"loop", "dir"}} {
		t.Run(pools[0]+" to "+pools[1], func(t *testing.T) {
			f := agenttest.NewCluster(t, pools[0], pools[1])
			d := f.A.NewVolume("db", nil)
			path := f.A.MustMount("db", "writer")
			file := filepath.Join(path, "file")
			for _, err := range []error{
				os.WriteFile(file, []byte("text"), 0o640), os.Chown(file, 1234, 5678), os.Link(file, filepath.Join(path, "again")),
				os.Symlink("file", filepath.Join(path, "sym")), unix.Setxattr(file, "user.x", []byte("y"), 0), os.Chmod(path, 0o751),
			} {
				require.NoError(t, err)
			}
			f.A.MustUnmount("db", "writer")
			f.Move("db", f.B)
			check := func(h *agenttest.Host) {
				t.Helper()
				path := h.MustMount("db", "reader")
				var st, again unix.Stat_t
				x := make([]byte, 1)
				err := errors.Join(unix.Stat(filepath.Join(path, "file"), &st), unix.Stat(filepath.Join(path, "again"), &again))
				_, xerr := unix.Getxattr(filepath.Join(path, "file"), "user.x", x)
				link, lerr := os.Readlink(filepath.Join(path, "sym"))
				if err := errors.Join(err, xerr, lerr); err != nil || st.Uid != 1234 || st.Gid != 5678 || st.Mode&0o7777 != 0o640 || st.Ino != again.Ino || string(x) != "y" || link != "file" {
					t.Errorf("%+v, %+v, %q, %q, %v", st, again, x, link, err)
				}
				h.MustUnmount("db", "reader")
			}
			check(f.B)
			agenttest.Await(t, func() bool { _, given := f.A.Leases.Relinquished(d.ID); return !given })
			if _, err := f.A.AddUse(t.Context(), d, 0, dataset.ParseReference("db"), "x"); err != nil && !errors.Is(err, dataset.ErrConflict) {
				t.Errorf("%v", err)
			}
			f.A.Fuse.Set(-1, false, func(act string) { // the transferred data is no head that it has left
				if k, kept := f.A.Cache.Copy(d.ID); kept && act == "commit" {
					assert.NoError(t, f.A.Copies.ReconcileLocked(t.Context(), k))
				}
			})
			f.Move("db", f.A)
			check(f.A)
		})
	}
}

// Another node gets only datasets that a move takes to it, or of which it has a recorded copy.
func TestPeersGetOnlyWhatTheyMay(t *testing.T) {
	t.Parallel()
	f := agenttest.NewCluster(t, "loop", "loop")
	d := f.A.NewVolume("db", map[string]string{"size": "320MiB"})
	ask := func() error {
		_, err := f.B.TransferClient.Plan(t.Context(), "https://host-a:9471", d.ID, nil, uuid.Nil, nil)
		return err
	}
	assert.ErrorIsf(t, ask(), dataset.ErrForbidden, "before")
	_, err := f.B.TransferClient.RequestSnapshot(t.Context(), "https://host-a:9471", d.ID, nil)
	assert.ErrorIsf(t, err, dataset.ErrForbidden, "a snapshot for nobody")
	f.A.MustMount("db", "user")
	op := f.BeginMove("db", f.B)
	agenttest.Await(t, func() bool { return ask() == nil })
	assert.ErrorIsf(t, f.A.Access.Check(t.Context(), uuid.New(), d.ID), dataset.ErrForbidden, "a third node")
	if op = f.AwaitEnd(op); op.State != dataset.OpFailed {
		t.Errorf("%s", op.State)
	}
	agenttest.Await(t, func() bool { return errors.Is(ask(), dataset.ErrForbidden) })
	assert.ErrorIsf(t, f.B.Access.Check(t.Context(), uuid.New(), d.ID), dataset.ErrNotFound, "a node without the dataset")
	_, err = move.CertifiedNode(&http.Request{})
	assert.ErrorIsf(t, err, dataset.ErrForbidden, "without a certificate")
	f.A.MustUnmount("db", "user")
	f.Move("db", f.B)
	f.A.AwaitSettled(d.ID)
	assert.NoErrorf(t, f.B.Access.Check(t.Context(), f.A.Node(), d.ID), "the node with a recorded copy")
	var e backends.Entry
	agenttest.Await(t, func() bool { // leftovers of moves are not kept forever
		var err error
		e, err = f.B.Pool().Stat(t.Context(), d.ID)
		return err == nil && len(e.Snapshots) == 1
	})
}

// A head that differs from what was relinquished, whatever wrote to it, is kept and not dropped, and its copy is not
// removed automatically.
func TestI3ChangedHeadIsKeptAfterMove(t *testing.T) {
	t.Parallel()
	for _, to := range []string{"loop", "dir"} {
		t.Run("to "+to, func(t *testing.T) {
			f := agenttest.NewCluster(t, "loop", to)
			d := f.A.NewVolume("db", nil)
			f.A.WriteFile("db", "token", "given up")
			gone := f.A.DieAfter("yield", 1)
			op := f.BeginMove("db", f.B)
			agenttest.AwaitDeath(t, gone)
			f.A.Stop()
			root, err := mounting.OpenRoot(t.Context(), f.A.Pool(), d.ID)
			require.NoError(t, err)
			fd, err := unix.Openat(int(root.Fd()), "strange", unix.O_CREAT|unix.O_WRONLY, 0o600)
			if err == nil {
				err = errors.Join(unix.Fsync(fd), unix.Close(fd))
			}
			require.NoError(t, errors.Join(err, root.Close()))
			f.A.Fuse.Mend()
			untold := f.A.DieAfter("copied", 1) // its head is kept, and that is not reported to control yet
			f.A.Fuse.Late = false
			f.A.Start()
			if op = f.AwaitEnd(op); op.State != dataset.OpDone {
				t.Fatalf("%+v", op.Problem)
			}
			agenttest.AwaitDeath(t, untold)
			if to == "dir" { // where a move back would begin by removing it
				if err := f.A.CheckSuperseded(t.Context(), f.A.Pool(), &op); !errors.Is(err, dataset.ErrConflict) || !strings.Contains(err.Error(), "discard it first") {
					t.Fatalf("the way back before control has heard: %v", err)
				}
			}
			f.A.Fuse.Mend()
			if to == "dir" {
				op = f.AwaitEnd(f.BeginMove("db", f.A))
				if op.State != dataset.OpFailed || !strings.Contains(op.Problem.Message, "discard it first") {
					t.Errorf("the way back: %s: %+v", op.State, op.Problem)
				}
			}
			f.A.AwaitSettled(d.ID)
			agenttest.Await(t, func() bool {
				v := f.Recorded("db")
				return len(v.CopyDetails) == 1 && v.CopyDetails[0].Kind == dataset.CopySuperseded && v.CopyDetails[0].Expires.IsZero()
			})
			e, err := f.A.Pool().Stat(t.Context(), d.ID)
			if _, kept := host.Newest(e, func(s dataset.Snapshot) bool { return s.Kind == dataset.SnapshotSuperseded }); !kept || err != nil {
				t.Errorf("%+v, %v", e.Snapshots, err)
			}
			f.B.WantFile("db", "token", "given up")
		})
	}
}

// cutOff is a control that gets no messages from a node, once that is set.
type cutOff struct {
	api.Service
	node uuid.UUID
	away *atomic.Bool
}

func (c cutOff) NodeList(ctx context.Context, filter string) ([]api.Node, error) {
	list, err := c.Service.NodeList(ctx, filter)
	for i := range list {
		list[i].Live = list[i].ID != c.node || !c.away.Load()
	}
	return list, err
}

// blackHole is a connection to other nodes on which everything is lost: a request ends when a connection attempt
// would have timed out.
type blackHole struct {
	patience time.Duration
	asked    *atomic.Int64
}

func (h blackHole) RoundTrip(r *http.Request) (*http.Response, error) {
	h.asked.Add(1)
	select {
	case <-time.After(h.patience):
		return nil, errors.New("i/o timeout")
	case <-r.Context().Done():
		return nil, context.Cause(r.Context())
	}
}

// A mount of a volume whose home is cut off ends with an error that says what to do: at once if control says that the
// home is unreachable, as soon as control says so, and after a bounded time if control never does. The number of
// requests to the home shows that the mount does not wait longer.
func TestI8MountWhileHomeIsCutOff(t *testing.T) {
	f := agenttest.NewCluster(t, "loop", "loop")
	f.A.NewVolume("db", nil)
	var away atomic.Bool
	var asked atomic.Int64
	f.B.Stop()
	f.B.Config.Control = cutOff{f.B.Config.Control, f.A.Node(), &away}
	f.B.Config.PeerHTTP = blackHole{4 * f.B.Config.Timing.Retry, &asked} // a real connection attempt ends after 5 s
	f.B.Start()
	mount := func(atMost int64) {
		t.Helper()
		asked.Store(0)
		_, err := f.B.Mount(t.Context(), "db", "id")
		if !errors.Is(err, dataset.ErrOffline) || errors.Is(err, dataset.ErrPending) {
			t.Fatal(err)
		}
		for _, says := range []string{"volume db is on node host-a, which is unreachable", "drover volume move db host-b --force --fenced host-a"} {
			if !strings.Contains(err.Error(), says) {
				t.Errorf("%v: does not say %s", err, says)
			}
		}
		if n := asked.Load(); n > atMost {
			t.Errorf("the home was asked %d times, want %d at most", n, atMost)
		}
	}
	mount(move.UnreachableTries/4 + 1) // each takes four retries, and the wait after it takes one more
	away.Store(true)
	mount(1)
}

// If only the disk of a home fails, its volume does not continue elsewhere without an operator, and a move is refused
// with the reason. An operator can force it to continue from another node's copy, once Drover is stopped on the home.
// After that Drover can start on the home again, and serves its other pools.
func TestMoveFromAFailingDisk(t *testing.T) {
	t.Parallel()
	// Control is one of several replicas: it knows which nodes are alive.
	f := &agenttest.Cluster{T: t, Session: 5 * time.Second}
	f.StartControl()
	f.A, f.B = f.AddHost("host-a", "loop"), f.AddHost("host-b", "loop")
	t.Cleanup(f.Close)
	disk := scratch.Mount(t, "xfs", 2<<30)
	f.A.Config.Pools = []pool.Config{
		{Name: "default", Backend: "loop", Path: filepath.Join(disk, "pool")},
		{Name: "near", Backend: "dir", Path: filepath.Join(t.TempDir(), "near")},
	}
	f.A.Start()
	f.B.Start()
	d := f.A.NewVolume("db", map[string]string{"size": "320MiB", "pool": "default"})
	f.A.NewVolume("near", map[string]string{"pool": "near"})
	f.A.WriteFile("db", "token", "before")
	f.Move("db", f.B)
	f.A.AwaitSettled(d.ID)
	f.Move("db", f.A) // this leaves a copy there
	f.B.AwaitSettled(d.ID)
	f.A.WriteFile("db", "token", "after")

	scratch.ShutDown(t, disk)
	if _, err := f.A.Mount(t.Context(), "db", "refused"); err == nil || !strings.Contains(err.Error(), "input/output error") {
		t.Errorf("a mount: %v", err)
	}
	if op := f.AwaitEnd(f.BeginMove("db", f.B)); op.State != dataset.OpFailed || !strings.Contains(op.Problem.Message, "its disk fails") {
		t.Errorf("a move: %s, %+v", op.State, op.Problem)
	}
	force := func() (api.Outcome, error) {
		return f.Service.Submit(t.Context(), api.Request{ID: uuid.New(), Kind: dataset.OpMove, Volume: "db", Node: "host-b", Force: true, Fenced: "host-a"})
	}
	if _, err := force(); !errors.Is(err, dataset.ErrConflict) || !strings.Contains(err.Error(), "is alive") {
		t.Errorf("by force while its home is alive: %v", err)
	}
	f.A.Stop()
	var out api.Outcome
	agenttest.Await(t, func() bool { // until control knows that the node is down
		var err error
		if out, err = force(); err != nil && !strings.Contains(err.Error(), "is alive") {
			t.Fatal(err)
		}
		return err == nil
	})
	if op := f.AwaitEnd(*out.Operation); op.State != dataset.OpDone {
		t.Fatalf("by force: %+v", op.Problem)
	}
	f.B.WantFile("db", "token", "before")
	f.A.Start()
	f.A.WriteFile("near", "token", "served")
	f.A.WantFile("near", "token", "served")
}
