package move_test

import (
	"errors"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/uuid"
	"golang.org/x/sys/unix"

	"github.com/droverhq/drover/agent/agenttest"
	"github.com/droverhq/drover/agent/host"
	"github.com/droverhq/drover/agent/mounting"
	"github.com/droverhq/drover/agent/move"
	"github.com/droverhq/drover/backends"
	"github.com/droverhq/drover/control/api"
	"github.com/droverhq/drover/dataset"
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
	if _, err := f.B.Mounter.AddUse(t.Context(), d, 0, dataset.ParseReference("db"), "new"); !errors.Is(err, dataset.ErrConflict) {
		t.Errorf("a new mount of the superseded volume: %v", err)
	}
	if err := os.WriteFile(filepath.Join(path, "late"), []byte("late"), 0o600); err != nil {
		t.Errorf("its user is disturbed: %v", err)
	}
	inUse := false
	list, err := f.B.Doctor(t.Context())
	for _, l := range list {
		inUse = inUse || l.Level == host.Error && strings.Contains(l.Text, "is in use here by 1")
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
				if err != nil {
					t.Fatal(err)
				}
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
			if _, err := f.A.Mounter.AddUse(t.Context(), d, 0, dataset.ParseReference("db"), "x"); err != nil && !errors.Is(err, dataset.ErrConflict) {
				t.Errorf("%v", err)
			}
			f.A.Fuse.Set(-1, false, func(act string) { // the transferred data is no head that it has left
				if k, kept := f.A.Cache.Copy(d.ID); kept && act == "commit" {
					if err := f.A.Copies.ReconcileLocked(t.Context(), k); err != nil {
						t.Error(err)
					}
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
		_, err := f.B.TransferClient.Snapshots(t.Context(), "https://host-a:9471", d.ID)
		return err
	}
	if err := ask(); !errors.Is(err, dataset.ErrForbidden) {
		t.Errorf("before: %v", err)
	}
	if _, err := f.B.TransferClient.RequestSnapshot(t.Context(), "https://host-a:9471", d.ID, nil); !errors.Is(err, dataset.ErrForbidden) {
		t.Errorf("a snapshot for nobody: %v", err)
	}
	f.A.MustMount("db", "user")
	op := f.BeginMove("db", f.B)
	agenttest.Await(t, func() bool { return ask() == nil })
	if err := f.A.Access.Check(t.Context(), uuid.New(), d.ID); !errors.Is(err, dataset.ErrForbidden) {
		t.Errorf("a third node: %v", err)
	}
	if op = f.AwaitEnd(op); op.State != dataset.OpFailed {
		t.Errorf("%s", op.State)
	}
	agenttest.Await(t, func() bool { return errors.Is(ask(), dataset.ErrForbidden) })
	if _, err := f.B.TransferClient.Snapshots(t.Context(), "https://host-a:9471", uuid.New()); !errors.Is(err, dataset.ErrNotFound) {
		t.Errorf("of no dataset: %v", err)
	}
	if _, err := move.CertifiedNode(&http.Request{}); !errors.Is(err, dataset.ErrForbidden) {
		t.Errorf("without a certificate: %v", err)
	}
	f.A.MustUnmount("db", "user")
	f.Move("db", f.B)
	f.A.AwaitSettled(d.ID)
	if err := f.B.Access.Check(t.Context(), f.A.Node(), d.ID); err != nil {
		t.Errorf("the node with a recorded copy: %v", err)
	}
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
			root, err := mounting.OpenRoot(t.Context(), f.A.Pool(), d.ID, backends.AttachOptions{})
			if err != nil {
				t.Fatal(err)
			}
			fd, err := unix.Openat(int(root.Fd()), "strange", unix.O_CREAT|unix.O_WRONLY, 0o600)
			if err == nil {
				err = errors.Join(unix.Fsync(fd), unix.Close(fd))
			}
			if err := errors.Join(err, root.Close()); err != nil {
				t.Fatal(err)
			}
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
