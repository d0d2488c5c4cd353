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
	"golang.org/x/sys/unix"

	"github.com/droverhq/drover/agent/agenttest"
	"github.com/droverhq/drover/agent/host"
	"github.com/droverhq/drover/agent/mounting"
	"github.com/droverhq/drover/agent/operation"
	"github.com/droverhq/drover/control/api"
	"github.com/droverhq/drover/control/store"
	"github.com/droverhq/drover/dataset"
	"github.com/droverhq/drover/test/assert"
	"github.com/droverhq/drover/test/require"
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
	assert.NoErrorf(t, operation.OutcomeError(f.AwaitEnd(*f.Submit(rm("db")).Operation)), "rm")
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
	assert.ErrorIsf(t, f.B.Remove(t.Context(), "db"), dataset.ErrInUse, "removed")
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
	assert.NoErrorf(t, operation.OutcomeError(f.AwaitEnd(*f.Submit(rm("db")).Operation)), "rm")
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
		_, err := f.Service.ReportSharedMount(t.Context(), f.B.Node(), over)
		require.NoError(t, err)
	}
	forget(d)
	f.AwaitSharedMounts("db")
	f.B.Start()
	f.AwaitSharedMounts("db", f.B)
	f.B.Stop()
	forget(d)
	require.NoError(t, operation.OutcomeError(f.AwaitEnd(*f.Submit(rm("db")).Operation)))
	f.B.Start()
	agenttest.Await(t, func() bool {
		list, err := f.B.Doctor(t.Context())
		require.NoError(t, err)
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
	if _, err := f.B.AddUse(t.Context(), d, 0, dataset.ParseReference("db"), "another"); !errors.Is(err, dataset.ErrConflict) {
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
	require.NoError(t, err)
	var drop []store.Write
	for _, e := range list {
		drop = append(drop, store.Write{Key: e.Key, Delete: true})
	}
	_, err = f.B.Database.Txn(t.Context(), nil, drop)
	require.NoError(t, err)
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
	require.NoError(t, f.B.Uses.Save(t.Context(), d, 0, uses, nil))
	// Once nobody uses it.
	assert.NoError(t, f.B.Verifier.DropUnverified(t.Context(), d, f.B.Verifier.Unverified(d.ID), 0))
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
	require.NoError(t, err)
	stay := f.Recorded("db").SharedMounts
	two, err := f.A.Agent.Reservations.Reserve(t.Context(), d)
	require.NoError(t, err)
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

// A host that was confirmed as fenced continues to write. It does not hinder a restore, and cannot change the data
// that the restore keeps. When the host is reachable again, doctor and control report that its mounted data is older
// than the restore, until its last container has ended.
func TestFencedGuestThatStillWrites(t *testing.T) {
	f, d := many(t)
	f.A.WriteFile("db", "token", "old")
	f.AwaitEnd(*f.Submit(api.Request{Kind: dataset.OpSnapshot, Volume: "db", Name: "first"}).Operation)
	path := f.B.MustMount("db", "user")
	f.B.PutToken(path, "new")
	f.B.Stop()
	file, err := os.OpenFile(filepath.Join(path, "token"), os.O_RDWR, 0)
	require.NoError(t, err)
	defer file.Close()
	putBack := aside(t, path) // the home is another machine, which does not see this mount
	word := store.Write{Key: "fenced/" + f.B.Node().String(), Value: []byte(`{"by":"a person"}`)}
	if _, err := f.ControlStore.Txn(t.Context(), nil, []store.Write{word}); err != nil {
		t.Fatal(err)
	}
	op := f.AwaitEnd(*f.Submit(api.Request{Kind: dataset.OpRestore, Volume: "db", Snapshot: "first"}).Operation)
	if op.State != dataset.OpDone {
		t.Fatalf("%+v", op.Problem)
	}
	_, _ = file.WriteAt([]byte("spoilt"), 0) // this is an error on a share, and the write is lost on a disk
	f.Submit(api.Request{Kind: dataset.OpClone, Volume: "kept", Options: map[string]string{"from": op.Snapshot.ID.String()}})
	agenttest.Await(t, func() bool { _, err := f.Service.Volume(t.Context(), "kept"); return err == nil })
	f.A.WantFile("kept", "token", "new")
	putBack()
	f.B.Start()
	agenttest.Await(t, func() bool {
		v := f.Recorded("db").SharedMountDetails
		return len(v) == 1 && strings.Contains(v[0].Problem, "it was restored while this host was confirmed as fenced")
	})
	list, err := f.B.Doctor(t.Context())
	require.NoError(t, err)
	said := false
	for _, is := range list {
		said = said || is.Subject == "volume db" && strings.Contains(is.Text, "is mounted here beside its home, and it was restored while this host was confirmed as fenced")
	}
	if !said {
		t.Errorf("doctor: %+v", list)
	}
	if path, err := f.B.Mount(t.Context(), "db", "another"); dataset.KindOf(err) != dataset.ErrConflict {
		t.Errorf("mounted at %s: %v", path, err)
	}
	f.AwaitSharedMounts("db", f.B)
	f.B.MustUnmount("db", "user")
	f.AwaitSharedMounts("db")
	f.B.WantFile("db", "token", "old")
	if is, err := host.IsMountPoint(f.B.MountPath(d.ID)); is || err != nil {
		t.Errorf("mounted: %t, %v", is, err)
	}
}

// A volume that is not mounted here any more, or that is mounted by means of an earlier mount of the share, is not
// reported as restored elsewhere.
func TestGuestOfSameShareIsNotBehind(t *testing.T) {
	f, d := many(t)
	path := f.B.MustMount("db", "user")
	att, err := f.B.SharedMounts.Attach(t.Context(), d)
	require.NoError(t, err)
	tree := att.Mount.Source
	require.NoError(t, att.Release())
	well := func(when string) {
		t.Helper()
		if err := f.B.SharedMounts.Reconcile(t.Context(), d.ID, uuid.Nil); err != nil || f.B.SharedMounts.Refusal(d.ID) != "" {
			t.Errorf("%s: %v, %q", when, err, f.B.SharedMounts.Refusal(d.ID))
		}
	}
	require.NoError(t, unix.Unmount(path, 0))
	well("somebody has unmounted it")
	again := t.TempDir() // the same folders in another mount
	require.NoError(t, unix.Mount("overlay", again, "overlay", 0, "lowerdir="+filepath.Dir(tree)+":"+t.TempDir()))
	t.Cleanup(func() { _ = unix.Unmount(again, unix.MNT_DETACH) })
	require.NoError(t, unix.Mount(filepath.Join(again, filepath.Base(tree)), path, "", unix.MS_BIND, ""))
	well("the share was mounted anew since")
	f.B.MustUnmount("db", "user")
}

// aside moves a mount away, with the files that are open in it, until the returned function moves it back. Meanwhile
// the path is an empty folder, as if the data was removed.
func aside(t *testing.T, path string) (putBack func()) {
	t.Helper()
	require.NoError(t, unix.Unmount(path, unix.MNT_DETACH))
	return func() {
		t.Helper()
		other := t.TempDir()
		require.NoErrorf(t, unix.Mount(other, path, "", unix.MS_BIND, ""), "mount %s on %s", other, path)
	}
}

// slowWord is a connection to control that delays the report of a mount once it is armed: the request, or its answer.
type slowWord struct {
	api.Service
	arm       chan bool // true: delay the answer
	asked, on chan struct{}
}

func (c slowWord) ReportSharedMount(ctx context.Context, node uuid.UUID, s api.SharedMountReport) (out api.IndexedDataset, err error) {
	held, answer := false, false
	if s.Mounted {
		select {
		case answer = <-c.arm:
			held = true
		default:
		}
	}
	if answer {
		out, err = c.Service.ReportSharedMount(ctx, node, s)
	}
	if held {
		c.asked <- struct{}{}
		<-c.on
	}
	if !answer {
		out, err = c.Service.ReportSharedMount(ctx, node, s)
	}
	return out, err
}

// A guest can mount and unmount the volume while control is asked about its mount. If the report or its answer
// arrives after the unmount or after the next mount, the record is corrected.
func TestGuestMountsWhileControlAnswers(t *testing.T) {
	f, d := many(t)
	f.B.Stop()
	slow := slowWord{f.B.Config.Control, make(chan bool, 1), make(chan struct{}), make(chan struct{})}
	f.B.Config.Control = slow
	f.B.Start()
	for _, c := range []struct{ again, answer bool }{{false, false}, {true, false}, {true, true}} {
		f.B.MustMount("db", "one")
		slow.arm <- c.answer
		done := make(chan error, 1)
		go func() { done <- f.B.SharedMounts.Reconcile(t.Context(), d.ID, uuid.Nil) }()
		<-slow.asked
		soon, cancel := context.WithTimeout(t.Context(), 10*time.Second)
		if _, err := f.B.Mount(soon, "db", "two"); err != nil {
			t.Errorf("mount: %v", err)
		}
		for _, id := range []string{"one", "two"} {
			assert.NoErrorf(t, f.B.Unmount(soon, "db", id), "unmount")
		}
		cancel()
		if t.Failed() {
			close(slow.on)
			t.Log(<-done)
			return
		}
		f.AwaitSharedMounts("db")
		if c.again {
			f.B.MustMount("db", "three")
		}
		slow.on <- struct{}{}
		assert.NoError(t, <-done)
		if c.again {
			f.B.MustUnmount("db", "three")
		}
		f.AwaitSharedMounts("db")
	}
}
