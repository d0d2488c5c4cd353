package agent

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

	"github.com/droverhq/drover/agent/findings"
	"github.com/droverhq/drover/agent/lineage"
	"github.com/droverhq/drover/agent/mounting"
	"github.com/droverhq/drover/agent/move"
	"github.com/droverhq/drover/backends"
	"github.com/droverhq/drover/control/api"
	"github.com/droverhq/drover/dataset"
)

// A volume goes on from the copy of another node, by a person's word. The home that was
// overtaken and comes back refuses new mounts, leaves who uses it alone, and then keeps
// what it had as a superseded snapshot until a person discards it: nothing is merged, and
// nothing dropped.
func TestForcedMove(t *testing.T) {
	t.Parallel()
	f := newFlock(t, "loop", "loop")
	d := f.a.volume("db", map[string]string{"size": "320MiB"})
	f.a.writes("db", "token", "before")
	f.moves("db", f.b)
	f.a.settled(d.ID)
	f.b.writes("db", "token", "lost")
	path := f.b.mounts("db", "user")
	f.b.Agent.stop() // it dies, and the mount stays
	f.b.down()
	out, err := f.svc.Submit(t.Context(), api.Request{ID: uuid.New(), Kind: dataset.OpMove, Volume: "db", Node: "host-a", Force: true, Fenced: "host-b"})
	if err != nil || out.Operation.Loss == nil {
		t.Fatalf("%+v, %v", out, err)
	}
	if op := f.ended(*out.Operation); op.State != dataset.OpDone {
		t.Fatalf("%+v", op.Problem)
	}
	if got := f.a.reads("db", "token"); got != "before" {
		t.Errorf("it goes on with %q", got)
	}

	f.b.up()
	await(t, func() bool { _, kept := f.b.Cache.Copy(d.ID); return kept })
	if _, err := f.b.mounter.Use(t.Context(), d, dataset.ParseReference("db"), "new"); !errors.Is(err, dataset.ErrConflict) {
		t.Errorf("a new user of what was overtaken: %v", err)
	}
	if err := os.WriteFile(filepath.Join(path, "late"), []byte("late"), 0o600); err != nil {
		t.Errorf("who uses it is disturbed: %v", err)
	}
	inUse := false
	list, err := f.b.Doctor(t.Context())
	for _, l := range list {
		inUse = inUse || l.Level == findings.Error && strings.Contains(l.Text, "is in use here by 1")
	}
	if err != nil || !inUse {
		t.Errorf("doctor does not say that it is in use: %+v, %v", list, err)
	}
	f.b.unmounts("db", "user")
	f.b.settled(d.ID)
	await(t, func() bool { v := f.record("db"); return len(v.Kept) == 1 && v.Kept[0].Snapshot != uuid.Nil })
	v := f.record("db")
	if len(v.Kept) != 1 || v.Kept[0].Kind != dataset.CopySuperseded || v.Kept[0].Snapshot == uuid.Nil {
		t.Fatalf("kept: %+v", v.Kept)
	}
	await(t, func() bool { return slices.Equal(f.b.SeenSuperseded(), []string{"db"}) })
	kept := v.Kept[0].Snapshot
	if held := f.b.holds(d, kept, "token"); held != "lost" {
		t.Errorf("what was overtaken holds %q", held)
	}
	// It does not become a target before a person has looked.
	op := f.ended(f.begins("db", f.b))
	if op.State != dataset.OpFailed || !strings.Contains(op.Problem.Message, "discard it first") {
		t.Errorf("%s: %+v", op.State, op.Problem)
	}
	if _, err := f.svc.Submit(t.Context(), api.Request{ID: uuid.New(), Kind: dataset.OpDiscard, Volume: "db"}); err != nil {
		t.Fatal(err)
	}
	await(t, func() bool {
		_, err := f.b.thePool().Stat(t.Context(), d.ID)
		return errors.Is(err, dataset.ErrNotFound) && len(f.record("db").Kept) == 0
	})
	f.moves("db", f.b)
}

// Between pools of unlike kinds the files go one by one: with owners, modes, links and
// holes as they were. There and back.
func TestMoveFiles(t *testing.T) {
	t.Parallel()
	for _, pools := range [][2]string{{"dir", "loop"}, {"dir", "dir"}, {"loop", "dir"}} {
		t.Run(pools[0]+" to "+pools[1], func(t *testing.T) {
			f := newFlock(t, pools[0], pools[1])
			d := f.a.volume("db", nil)
			path := f.a.mounts("db", "writer")
			file := filepath.Join(path, "file")
			for _, err := range []error{
				os.WriteFile(file, []byte("text"), 0o640), os.Chown(file, 1234, 5678), os.Link(file, filepath.Join(path, "again")),
				os.Symlink("file", filepath.Join(path, "sym")), unix.Setxattr(file, "user.x", []byte("y"), 0), os.Chmod(path, 0o751),
			} {
				if err != nil {
					t.Fatal(err)
				}
			}
			f.a.unmounts("db", "writer")
			f.moves("db", f.b)
			check := func(h *flockHost) {
				t.Helper()
				path := h.mounts("db", "reader")
				var st, again unix.Stat_t
				x := make([]byte, 1)
				err := errors.Join(unix.Stat(filepath.Join(path, "file"), &st), unix.Stat(filepath.Join(path, "again"), &again))
				_, xerr := unix.Getxattr(filepath.Join(path, "file"), "user.x", x)
				link, lerr := os.Readlink(filepath.Join(path, "sym"))
				if err := errors.Join(err, xerr, lerr); err != nil || st.Uid != 1234 || st.Gid != 5678 || st.Mode&0o7777 != 0o640 || st.Ino != again.Ino || string(x) != "y" || link != "file" {
					t.Errorf("%+v, %+v, %q, %q, %v", st, again, x, link, err)
				}
				h.unmounts("db", "reader")
			}
			check(f.b)
			await(t, func() bool { _, given := f.a.leases.Relinquished(d.ID); return !given })
			if _, err := f.a.mounter.Use(t.Context(), d, dataset.ParseReference("db"), "x"); err != nil && !errors.Is(err, dataset.ErrConflict) {
				t.Errorf("%v", err)
			}
			f.a.fuse.set(-1, false, func(act string) { // what comes is no head that it has left
				if k, kept := f.a.Cache.Copy(d.ID); kept && act == "commit" {
					if err := f.a.copies.SettleLocked(t.Context(), k); err != nil {
						t.Error(err)
					}
				}
			})
			f.moves("db", f.a)
			check(f.a)
		})
	}
}

// Another node gets what a move takes to it, or a copy of it on record, and no other.
func TestPeersMayHave(t *testing.T) {
	t.Parallel()
	f := newFlock(t, "loop", "loop")
	d := f.a.volume("db", map[string]string{"size": "320MiB"})
	ask := func() error {
		_, err := f.b.puller.Snapshots(t.Context(), "https://host-a:9471", d.ID)
		return err
	}
	if err := ask(); !errors.Is(err, dataset.ErrForbidden) {
		t.Errorf("before: %v", err)
	}
	if _, err := f.b.puller.Freshen(t.Context(), "https://host-a:9471", d.ID, nil); !errors.Is(err, dataset.ErrForbidden) {
		t.Errorf("a snapshot for nobody: %v", err)
	}
	f.a.mounts("db", "user")
	op := f.begins("db", f.b)
	await(t, func() bool { return ask() == nil })
	if err := f.a.access.Check(t.Context(), uuid.New(), d.ID); !errors.Is(err, dataset.ErrForbidden) {
		t.Errorf("a third node: %v", err)
	}
	if op = f.ended(op); op.State != dataset.OpFailed {
		t.Errorf("%s", op.State)
	}
	await(t, func() bool { return errors.Is(ask(), dataset.ErrForbidden) })
	if _, err := f.b.puller.Snapshots(t.Context(), "https://host-a:9471", uuid.New()); !errors.Is(err, dataset.ErrNotFound) {
		t.Errorf("of no dataset: %v", err)
	}
	if _, err := move.CertifiedNode(&http.Request{}); !errors.Is(err, dataset.ErrForbidden) {
		t.Errorf("without a certificate: %v", err)
	}
	f.a.unmounts("db", "user")
	f.moves("db", f.b)
	f.a.settled(d.ID)
	if err := f.b.access.Check(t.Context(), f.a.Node(), d.ID); err != nil {
		t.Errorf("who has a copy on record: %v", err)
	}
	var e backends.Entry
	await(t, func() bool { // what moves have left is not kept for ever
		var err error
		e, err = f.b.thePool().Stat(t.Context(), d.ID)
		return err == nil && len(e.Snapshots) == 1
	})
}

// A head that is not what was given up, whatever wrote to it, is kept and not dropped,
// and its copy does not go by itself.
func TestI3LeftHeadDiffers(t *testing.T) {
	t.Parallel()
	for _, to := range []string{"loop", "dir"} {
		t.Run("to "+to, func(t *testing.T) {
			f := newFlock(t, "loop", to)
			d := f.a.volume("db", nil)
			f.a.writes("db", "token", "given up")
			gone := f.a.dies("yield", 1)
			op := f.begins("db", f.b)
			died(t, gone)
			f.a.down()
			root, err := mounting.OpenRoot(t.Context(), f.a.thePool(), d.ID, backends.AttachOptions{})
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
			f.a.fuse.mend()
			untold := f.a.dies("copied", 1) // its head is kept, and control has not heard so
			f.a.fuse.late = false
			f.a.up()
			if op = f.ended(op); op.State != dataset.OpDone {
				t.Fatalf("%+v", op.Problem)
			}
			died(t, untold)
			if to == "dir" { // where a way back would begin by removing it
				if err := f.a.mover.CheckOvertaken(t.Context(), f.a.thePool(), &op); !errors.Is(err, dataset.ErrConflict) || !strings.Contains(err.Error(), "discard it first") {
					t.Fatalf("the way back before control has heard: %v", err)
				}
			}
			f.a.fuse.mend()
			if to == "dir" {
				op = f.ended(f.begins("db", f.a))
				if op.State != dataset.OpFailed || !strings.Contains(op.Problem.Message, "discard it first") {
					t.Errorf("the way back: %s: %+v", op.State, op.Problem)
				}
			}
			f.a.settled(d.ID)
			await(t, func() bool {
				v := f.record("db")
				return len(v.Kept) == 1 && v.Kept[0].Kind == dataset.CopySuperseded && v.Kept[0].Until.IsZero()
			})
			e, err := f.a.thePool().Stat(t.Context(), d.ID)
			if _, kept := lineage.Newest(e, func(s dataset.Snapshot) bool { return s.Kind == dataset.SnapshotSuperseded }); !kept || err != nil {
				t.Errorf("%+v, %v", e.Snapshots, err)
			}
			if got := f.b.reads("db", "token"); got != "given up" {
				t.Errorf("it goes on with %q", got)
			}
		})
	}
}
