package mounting_test

import (
	"context"
	"errors"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"

	"github.com/droverhq/drover/agent/agenttest"
	"github.com/droverhq/drover/agent/host"
	"github.com/droverhq/drover/agent/mounting"
	"github.com/droverhq/drover/agent/operation"
	"github.com/droverhq/drover/control/api"
	"github.com/droverhq/drover/control/store"
	"github.com/droverhq/drover/dataset"
)

// many makes a volume that both hosts of a cluster may mount. Its home is host a.
func many(t *testing.T) (*agenttest.Cluster, dataset.Dataset) {
	t.Helper()
	f := agenttest.NewCluster(t, "nfs", "nfs")
	f.A.Config.Timing.InUseWait, f.B.Config.Timing.InUseWait = 300*time.Millisecond, 300*time.Millisecond
	f.A.Restart()
	f.B.Restart()
	return f, f.A.NewVolume("db@many", nil)
}

// Two hosts have the volume mounted at once, and each sees what the other one writes. The home stays the same, and
// the guest is recorded from before its mount until after its unmount.
func TestAccessManyMountsOnTwoHosts(t *testing.T) {
	f, d := many(t)
	here := f.A.MustMount("db", "one")
	f.A.PutToken(here, "of a")
	there := f.B.MustMount("db", "two")
	f.B.WantToken(there, "of a")
	f.B.PutToken(there, "of b")
	f.A.WantToken(here, "of b")
	if v := f.Recorded("db"); v.Home != f.A.Node() || v.Epoch != d.Epoch || v.Move != uuid.Nil {
		t.Errorf("on record: %+v", v.Dataset)
	}
	f.AwaitSharedMounts("db", f.B)
	f.B.MustMount("db", "three")
	f.B.MustUnmount("db", "two")
	f.AwaitSharedMounts("db", f.B)
	agenttest.Await(t, func() bool { v := f.Recorded("db").SharedMountDetails; return len(v) == 1 && v[0].MountCount == 1 })
	agenttest.Await(t, func() bool { // the name of the node is read separately
		v, err := f.B.Get(t.Context(), "db")
		return err == nil && v.Mountpoint == there && v.Status["guest"] == "host-b" && v.Status["node"] == "host-a"
	})
	f.B.MustUnmount("db", "three")
	if v := f.Recorded("db"); len(v.SharedMounts) != 0 {
		t.Errorf("after the last unmount: %+v", v.SharedMounts)
	}
	if _, err := os.Stat(filepath.Join(there, "token")); err == nil {
		t.Error("it is mounted still")
	}
	f.A.WantToken(here, "of b")
}

// A guest finds the volume by its new name and by the former one, also without control.
func TestGuestFindsRenamedVolume(t *testing.T) {
	f, _ := many(t)
	there := f.B.MustMount("db", "before")
	f.SetNames("db", "new", "db")
	agenttest.Await(t, func() bool { d, _ := f.B.SharedMounts.Named("new"); return d.Volume == "new" })
	f.B.Config.Control = agenttest.UnreachableControl{Service: f.Client}
	f.B.Restart()
	for _, name := range []string{"new", "db"} {
		if v, err := f.B.Get(t.Context(), name); err != nil || v.Mountpoint != there {
			t.Errorf("%s: %+v, %v", name, v, err)
		}
	}
	f.B.MustUnmount("db", "before")
}

// Operations that need the volume exclusively are refused while there is a guest, with an error that names the guest.
// They succeed when the guest has left.
func TestOperationsAreRefusedWhileThereAreGuests(t *testing.T) {
	f, _ := many(t)
	f.A.WriteFile("db", "token", "kept")
	path := f.B.MustMount("db", "user")
	agenttest.Await(t, func() bool { v := f.Recorded("db").SharedMountDetails; return len(v) == 1 && v[0].MountCount == 1 })
	says := func(err error) bool {
		return errors.Is(err, dataset.ErrInUse) && strings.Contains(err.Error(), "in use on host-b (1 mount)")
	}
	for name, try := range map[string]func() error{
		"rm":     func() error { _, err := f.Service.Submit(t.Context(), rm("db")); return err },
		"export": func() error { _, err := f.A.Export(t.Context(), "db", "", io.Discard); return err },
		"clone":  func() error { return f.A.Create(t.Context(), "two", map[string]string{"from": "db"}) },
		"snapshot": func() error {
			out, err := f.Service.Submit(t.Context(), api.Request{Kind: dataset.OpSnapshot, Volume: "db"})
			if err != nil {
				return err
			}
			return operation.OutcomeError(f.AwaitEnd(*out.Operation))
		},
		"move": func() error {
			_, err := f.Service.Submit(t.Context(), api.Request{Kind: dataset.OpMove, Volume: "db", Node: "host-b"})
			return err
		},
	} {
		if err := try(); !says(err) {
			t.Errorf("%s: %v", name, err)
		}
	}
	f.B.PutToken(path, "goes on")
	f.B.MustUnmount("db", "user")
	s := f.AwaitEnd(*f.Submit(api.Request{Kind: dataset.OpSnapshot, Volume: "db", Name: "before"}).Operation)
	if s.State != dataset.OpDone {
		t.Fatalf("snapshot: %+v", s.Problem)
	}
	if got := f.B.ReadFile("db", "token"); got != "goes on" { // once the home no longer needs it exclusively
		t.Errorf("it holds %q", got)
	}
	path = f.B.MustMount("db", "user")
	restore := f.AwaitEnd(*f.Submit(api.Request{Kind: dataset.OpRestore, Volume: "db", Snapshot: "before"}).Operation)
	if err := operation.OutcomeError(restore); !says(err) && !strings.Contains(err.Error(), "in use on host-b") {
		t.Errorf("restore: %v", err)
	}
	f.B.WantToken(path, "goes on")
	f.B.MustUnmount("db", "user")
	if err := operation.OutcomeError(f.AwaitEnd(*f.Submit(rm("db")).Operation)); err != nil {
		t.Errorf("rm: %v", err)
	}
}

func rm(volume string) api.Request { return api.Request{Kind: dataset.OpDelete, Volume: volume} }

// A guest crashes at every act of a mount or of the following unmount. Its stay is recorded for as long as the volume
// is mounted there, and is removed if the restarted guest does not have it mounted.
func TestGuestCrashesAtEveryAct(t *testing.T) {
	f, d := many(t)
	f.A.WriteFile("db", "token", "kept")
	path := f.B.MountPath(d.ID)
	for _, late := range []bool{true, false} {
		for n := 0; ; n++ {
			f.B.Fuse.Set(n, late, func(act string) {
				mounted, err := host.IsMountPoint(path)
				if _, stays := f.Recorded("db").SharedMountOf(f.B.Node()); err != nil || mounted && !stays {
					t.Errorf("late %t, act %d: mounted, and not on record, at %s: %v", late, n, act, err)
				}
			})
			ctx, cancel := context.WithTimeout(t.Context(), 2*time.Second)
			_, err := f.B.Mount(ctx, "db", "user")
			mounted := err == nil
			if err == nil {
				err = f.B.Unmount(ctx, "db", "user")
			}
			cancel()
			what := f.B.Fuse.Seen()
			cut := f.B.Fuse.Blown()
			f.B.Restart()
			if v := f.Recorded("db"); v.Home != f.A.Node() {
				t.Fatalf("on record: %+v", v.Dataset)
			}
			if len(f.B.Uses.Get(d.ID).IDs) > 0 { // acknowledged, or about to be
				f.AwaitSharedMounts("db", f.B)
				f.B.MustUnmount("db", "user")
			}
			f.AwaitSharedMounts("db")
			if is, err := host.IsMountPoint(path); is || err != nil {
				t.Fatalf("late %t, act %d of %v: mounted: %t, %v", late, n, what, is, err)
			}
			if !cut {
				if err != nil || !mounted {
					t.Fatalf("uncut: %v", err)
				}
				t.Logf("late %t: %v", late, what)
				break
			}
		}
	}
	f.B.WantFile("db", "token", "kept")
}

// While control is unreachable, the nodes that have the volume mounted continue, also with another container. No
// other node begins. An unmount is reported once control is reachable again.
func TestGuestsContinueWithoutControl(t *testing.T) {
	f, d := many(t)
	path := f.B.MustMount("db", "one")
	link := f.B.Config.Control
	f.B.Stop()
	f.B.Config.Control = agenttest.UnreachableControl{Service: link}
	f.B.Start()
	if again := f.B.MustMount("db", "two"); again != path {
		t.Errorf("mounted at %s", again)
	}
	f.B.PutToken(path, "goes on")
	f.B.MustUnmount("db", "two")
	f.B.MustUnmount("db", "one")
	if _, err := f.B.Mount(t.Context(), "db", "three"); !errors.Is(err, dataset.ErrUnavailable) {
		t.Errorf("mounted, though nobody knows: %v", err)
	}
	if v := f.Recorded("db"); len(v.SharedMounts) != 1 {
		t.Errorf("ended without a word: %+v", v.SharedMounts)
	}
	f.B.Stop()
	f.B.Config.Control = link
	f.B.Start()
	f.AwaitSharedMounts("db")
	if is, err := host.IsMountPoint(f.B.MountPath(d.ID)); is || err != nil {
		t.Errorf("mounted: %t, %v", is, err)
	}
}

// If the home is lost the guests continue, and one of them becomes the home and keeps its mounts. The former home is
// a guest after its return, for as long as it has the volume mounted.
func TestGuestBecomesHome(t *testing.T) {
	f, d := many(t)
	here, there := f.A.MustMount("db", "one"), f.B.MustMount("db", "two")
	f.A.Stop()
	f.B.PutToken(there, "of b")
	f.B.MustMount("db", "three")
	op := f.AwaitEnd(*f.Submit(api.Request{Kind: dataset.OpMove, Volume: "db", Node: "host-b", Force: true, Fenced: "host-a"}).Operation)
	if op.State != dataset.OpDone {
		t.Fatalf("%+v", op.Problem)
	}
	f.B.WantToken(there, "of b")
	f.AwaitSharedMounts("db", f.A)
	f.A.Start()
	f.A.AwaitSettled(d.ID)
	f.AwaitSharedMounts("db", f.A)
	f.A.PutToken(here, "of a") // the containers that still run there were not killed
	f.B.WantToken(there, "of a")
	if err := f.B.Remove(t.Context(), "db"); !errors.Is(err, dataset.ErrInUse) {
		t.Errorf("removed: %v", err)
	}
	f.B.MustUnmount("db", "two")
	f.B.MustUnmount("db", "three")
	if err := f.B.Remove(t.Context(), "db"); !errors.Is(err, dataset.ErrInUse) || !strings.Contains(err.Error(), "host-a") {
		t.Errorf("removed: %v", err)
	}
	f.A.MustUnmount("db", "one")
	f.AwaitSharedMounts("db")
	if got := f.A.ReadFile("db", "token"); got != "of a" { // as a guest now
		t.Errorf("it holds %q", got)
	}
	f.AwaitSharedMounts("db")
	if err := operation.OutcomeError(f.AwaitEnd(*f.Submit(rm("db")).Operation)); err != nil {
		t.Errorf("rm: %v", err)
	}
}

// A mount that control has forgotten is reported again. If the volume no longer exists, doctor names the mount.
func TestForgottenGuestReportsAgain(t *testing.T) {
	f, d := many(t)
	f.B.MustMount("db", "user")
	g, _ := f.B.SharedMounts.Get(d.ID)
	f.B.Stop()
	forget := func(d dataset.Dataset) {
		t.Helper()
		over := api.SharedMountReport{Incarnation: f.B.Incarnation, Dataset: d.ID, ID: g.MountID, Ended: true}
		if _, err := f.Service.ReportSharedMount(t.Context(), f.B.Node(), over); err != nil {
			t.Fatal(err)
		}
	}
	forget(d)
	f.AwaitSharedMounts("db")
	f.B.Start()
	f.AwaitSharedMounts("db", f.B)
	f.B.Stop()
	forget(d)
	if err := operation.OutcomeError(f.AwaitEnd(*f.Submit(rm("db")).Operation)); err != nil {
		t.Fatal(err)
	}
	f.B.Start()
	agenttest.Await(t, func() bool {
		list, err := f.B.Doctor(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		for _, is := range list {
			if is.Subject == "volume db" && strings.Contains(is.Text, "is mounted here beside its home, and control has no record of this mount") {
				return true
			}
		}
		return false
	})
	// Nobody new mounts it there, nor takes it for a volume of the same name.
	if path, err := f.B.Mount(t.Context(), "db", "another"); !errors.Is(err, dataset.ErrNotFound) {
		t.Errorf("mounted at %s: %v", path, err)
	}
	if _, err := f.B.Mounter.AddUse(t.Context(), d, 0, dataset.ParseReference("db"), "another"); !errors.Is(err, dataset.ErrConflict) {
		t.Errorf("used: %v", err)
	}
	now := f.A.NewVolume("db@many", nil)
	if path := f.B.MustMount("db", "another"); path != f.B.MountPath(now.ID) {
		t.Errorf("the new volume of that name is mounted at %s", path)
	}
	f.B.MustUnmount("db", "another")
	f.B.MustUnmount("db", "user")
	if is, err := host.IsMountPoint(f.B.MountPath(d.ID)); is || err != nil {
		t.Errorf("mounted: %t, %v", is, err)
	}
}

// A guest whose agent has lost its database stays for as long as somebody may use the volume there, whoever else
// mounts and unmounts it.
func TestGuestWithLostDatabaseStays(t *testing.T) {
	f, d := many(t)
	path := f.B.MustMount("db", "user")
	f.B.Stop()
	list, err := f.B.Database.List(t.Context(), "", "", 0)
	if err != nil {
		t.Fatal(err)
	}
	var drop []store.Write
	for _, e := range list {
		drop = append(drop, store.Write{Key: e.Key, Delete: true})
	}
	if _, err := f.B.Database.Txn(t.Context(), nil, drop); err != nil {
		t.Fatal(err)
	}
	f.B.Start()
	agenttest.Await(t, func() bool { return f.B.Uses.Get(d.ID).IDs[mounting.UnknownUse].Count == 1 })
	f.B.MustMount("db", "next")
	f.B.MustUnmount("db", "next")
	f.AwaitSharedMounts("db", f.B)
	if is, err := host.IsMountPoint(path); !is || err != nil {
		t.Errorf("mounted: %t, %v", is, err)
	}
	uses := f.B.Uses.Get(d.ID)
	for id, use := range uses.IDs {
		use.LastMount -= mounting.MountedGrace
		uses.IDs[id] = use
	}
	if err := f.B.Uses.Save(t.Context(), d, 0, uses, nil); err != nil {
		t.Fatal(err)
	}
	// Once nobody uses it.
	if err := f.B.Verifier.DropUnverified(t.Context(), d, f.B.Verifier.Unverified(d.ID), 0); err != nil {
		t.Error(err)
	}
	f.AwaitSharedMounts("db")
}

// All other volumes of the same share have one host at a time.
func TestI1OtherVolumesOfShareHaveOneHost(t *testing.T) {
	f, _ := many(t)
	f.A.NewVolume("one", nil)
	f.A.MustMount("one", "user")
	f.B.MustMount("db", "user")
	if _, err := f.B.Mount(t.Context(), "one", "user"); !errors.Is(err, dataset.ErrInUse) {
		t.Errorf("mounted twice: %v", err)
	}
}

// A home that needs a dataset exclusively for two operations at once lets other nodes in after both, and asks control
// for the reservation once.
func TestReservationsOfSameDatasetShareOneRequest(t *testing.T) {
	f, d := many(t)
	one, err := f.A.Agent.Reservations.Reserve(t.Context(), d)
	if err != nil {
		t.Fatal(err)
	}
	stay := f.Recorded("db").SharedMounts
	two, err := f.A.Agent.Reservations.Reserve(t.Context(), d)
	if err != nil {
		t.Fatal(err)
	}
	one()
	if _, err := f.B.Mount(t.Context(), "db", "user"); !errors.Is(err, dataset.ErrPending) {
		t.Errorf("mounted while it is needed alone: %v", err)
	}
	if now := f.Recorded("db").SharedMounts; len(now) != 1 || len(stay) != 1 || now[0].ID != stay[0].ID {
		t.Errorf("on record: %+v, then %+v", stay, now)
	}
	two()
	f.B.MustMount("db", "user")
	f.B.MustUnmount("db", "user")
}
