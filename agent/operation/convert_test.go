package operation_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/google/uuid"
	"golang.org/x/sys/unix"

	"github.com/droverhq/drover/agent/agenttest"
	"github.com/droverhq/drover/agent/jobs"
	"github.com/droverhq/drover/backends"
	"github.com/droverhq/drover/control/api"
	"github.com/droverhq/drover/dataset"
)

// setProfile requests another profile for a volume.
func setProfile(f *agenttest.Cluster, volume, profile string) dataset.Operation {
	f.Helper()
	return *f.Submit(api.Request{ID: uuid.New(), Kind: dataset.OpUpdate, Volume: volume, Profile: profile}).Operation
}

// converts has a volume converted to a profile, and returns its new record.
func converts(f *agenttest.Cluster, volume, profile string) dataset.Dataset {
	f.Helper()
	op := setProfile(f, volume, profile)
	if op.Kind != dataset.OpConvert {
		f.Fatalf("planned: %+v", op)
	}
	if op = f.AwaitEnd(op); op.State != dataset.OpDone {
		f.Fatalf("%s: %+v", op.State, op.Problem)
	}
	now := f.Recorded(volume).Dataset
	if op.DatasetRecord.ID != now.ID {
		f.Errorf("the operation has dataset %s, and the volume %s", op.DatasetRecord.ID, now.ID)
	}
	return now
}

// magic returns the type of the filesystem at a path, as in statfs(2).
func magic(f *agenttest.Cluster, path string) int64 {
	f.Helper()
	var st unix.Statfs_t
	if err := unix.Statfs(path, &st); err != nil {
		f.Fatal(err)
	}
	return st.Type
}

// A volume gets a profile with another filesystem, and back. Its files, names, labels, protection and age stay. The
// former dataset is in the trash with its snapshot.
func TestConvertFilesystem(t *testing.T) {
	t.Parallel()
	f := agenttest.NewCluster(t, "loop", "dir")
	d := f.A.NewVolume("db@free", map[string]string{"label.tier": "one"})
	root := f.A.MustMount("db@free", "user")
	var st unix.Stat_t
	must := func(errs ...error) {
		t.Helper()
		if err := errors.Join(errs...); err != nil {
			t.Fatal(err)
		}
	}
	must(os.Mkdir(root+"/dir", 0o750), os.WriteFile(root+"/dir/file", []byte("content"), 0o600),
		os.Chown(root+"/dir/file", 1234, 5678),
		os.Link(root+"/dir/file", root+"/linked"), os.Symlink("dir/file", root+"/symbolic"),
		unix.Setxattr(root+"/dir/file", "user.kind", []byte("test"), 0), os.Truncate(root+"/dir/file", 64<<20), unix.Chmod(root+"/dir/file", 0o4711))
	f.A.MustUnmount("db@free", "user")
	f.Submit(api.Request{ID: uuid.New(), Kind: dataset.OpUpdate, Volume: "db", Protect: new(true)})
	f.Submit(api.Request{ID: uuid.New(), Kind: dataset.OpRename, Volume: "db", Name: "shop"})
	if op := f.AwaitEnd(*f.Submit(api.Request{ID: uuid.New(), Kind: dataset.OpSnapshot, Volume: "db", Name: "first"}).Operation); op.State != dataset.OpDone {
		t.Fatalf("%+v", op.Problem)
	}
	now := converts(f, "shop", "ext4")
	if now.ID == d.ID || now.Volume != "shop" || !slices.Equal(now.Aliases, []string{"db"}) || now.Labels["tier"] != "one" ||
		!now.Protected || !now.Created.Equal(d.Created) || now.Profile.Name != "ext4" || now.Profile.Filesystem.Type != "ext4" ||
		now.RequestedAs != d.RequestedAs || now.HeadParent != uuid.Nil {
		t.Errorf("%+v, was %+v", now, d)
	}
	if used := f.A.Spellings.Used(now); !slices.Contains(used, "db@free") {
		t.Errorf("the engine uses %v", used)
	}
	root = f.A.MustMount("db@free", "user")
	if magic(f, root) != unix.EXT4_SUPER_MAGIC {
		t.Error("it is no ext4")
	}
	attr := make([]byte, 10)
	n, err := unix.Getxattr(root+"/dir/file", "user.kind", attr)
	must(err, unix.Stat(root+"/linked", &st))
	if string(attr[:n]) != "test" || st.Uid != 1234 || st.Gid != 5678 || st.Mode&0o7777 != 0o4711 || st.Nlink != 2 ||
		st.Size != 64<<20 || st.Blocks > 1<<10 {
		t.Errorf("%q, %+v", attr[:n], st)
	}
	f.A.MustUnmount("db@free", "user")
	trash, err := f.Client.Trash(t.Context(), api.Page{})
	if err != nil || len(trash.Items) != 1 || trash.Items[0].ID != d.ID || trash.Items[0].Trash == nil {
		t.Fatalf("%+v, %v", trash.Items, err)
	}
	if e, err := f.A.Pool().Stat(t.Context(), d.ID); err != nil || len(e.Snapshots) != 1 {
		t.Errorf("%+v, %v", e, err)
	}
	if left := left(f.A); len(left) > 0 {
		t.Errorf("left: %v", left)
	}
	f.Submit(api.Request{ID: uuid.New(), Kind: dataset.OpUndelete, Volume: d.ID.String(), Name: "former"})
	f.A.MustMount("former", "user")
	f.A.MustUnmount("former", "user")
}

// left lists the incoming datasets in the pool of a host.
func left(h *agenttest.Host) (ids []uuid.UUID) {
	h.T.Helper()
	entries, err := h.Pool().List(h.T.Context())
	if err != nil {
		h.T.Fatal(err)
	}
	for _, e := range entries {
		if e.State == backends.EntryIncoming {
			ids = append(ids, e.ID)
		}
	}
	return ids
}

// A volume in use is not converted. The error names the user, also that of a dry run.
func TestConvertOfVolumeInUseIsRefused(t *testing.T) {
	t.Parallel()
	f := agenttest.NewCluster(t, "loop", "dir")
	d := f.A.NewVolume("db@free")
	f.A.MustMount("db@free", "user")
	op := f.AwaitEnd(setProfile(f, "db", "ext4"))
	if op.State != dataset.OpFailed || !strings.Contains(op.Problem.Message, "it is mounted by user") {
		t.Errorf("%s, %+v", op.State, op.Problem)
	}
	if now := f.Recorded("db"); now.ID != d.ID || now.Profile.Name != "free" || len(left(f.A)) > 0 {
		t.Errorf("%+v, left %v", now.Dataset, left(f.A))
	}
	f.A.MustUnmount("db@free", "user")
	converts(f, "db", "ext4")
}

// While a volume is converted, a mount and changes are refused, and the errors name the operation. An operation that
// was planned before the conversion, and waits for the lock, does not change the former dataset. A cancelled conversion
// leaves nothing.
func TestConversionInProgress(t *testing.T) {
	t.Parallel()
	f := agenttest.NewCluster(t, "loop", "loop")
	d := f.A.NewVolume("db@free")
	hold := func() (op dataset.Operation, release func()) {
		t.Helper()
		// The UUID of the new dataset is known from the plan only, so the former dataset is locked until then.
		unlock, err := f.A.Locks.Lock(t.Context(), d.ID, "test")
		if err != nil {
			t.Fatal(err)
		}
		op = setProfile(f, "db", "ext4")
		unlockNext, err := f.A.Locks.Lock(t.Context(), op.DatasetRecord.ID, "test")
		if err != nil {
			t.Fatal(err)
		}
		unlock()
		agenttest.Await(t, func() bool { return f.A.Locks.Users(op.DatasetRecord.ID) == 2 })
		return op, unlockNext
	}
	op, release := hold()
	short := op.ID.String()[:8]
	for what, err := range map[string]error{
		"mount": func() error { _, err := f.A.Mount(t.Context(), "db", "user"); return err }(),
		"move": func() error {
			_, err := f.Service.Submit(t.Context(), api.Request{ID: uuid.New(), Kind: dataset.OpMove, Volume: "db", Node: "host-b"})
			return err
		}(),
		"set-profile": func() error {
			_, err := f.Service.Submit(t.Context(), api.Request{ID: uuid.New(), Kind: dataset.OpUpdate, Volume: "db", Profile: "slow"})
			return err
		}(),
		"rm": f.A.Requests.Perform(t.Context(), api.Request{Kind: dataset.OpDelete, Volume: "db"}),
	} {
		if !errors.Is(err, dataset.ErrConflict) || !strings.Contains(err.Error(), "drover operation cancel "+short) {
			t.Errorf("%s: %v", what, err)
		}
	}
	if _, err := f.Service.CancelOperation(t.Context(), op.ID.String()); err != nil {
		t.Fatal(err)
	}
	agenttest.Await(t, func() bool { return f.A.Locks.Users(op.DatasetRecord.ID) == 1 })
	release()
	f.A.MustMount("db", "user")
	f.A.MustUnmount("db", "user")

	plan, err := f.Service.Plan(t.Context(), f.A.Node(), api.Request{ID: uuid.New(), Kind: dataset.OpResize, Volume: "db", Size: "600MiB"})
	if err != nil {
		t.Fatal(err)
	}
	op, release = hold()
	resized := make(chan error, 1)
	go func() {
		_, err := f.A.Jobs.Do(t.Context(), "resize", "resize", func(ctx context.Context, jb *jobs.Job) error {
			_, err := f.A.Executor.Execute(ctx, jb, *plan.Operation)
			return err
		})
		resized <- err
	}()
	agenttest.Await(t, func() bool { return f.A.Locks.Users(d.ID) == 2 })
	release()
	if op = f.AwaitEnd(op); op.State != dataset.OpDone {
		t.Errorf("%s, %+v", op.State, op.Problem)
	}
	if err := <-resized; !errors.Is(err, dataset.ErrConflict) || !strings.Contains(err.Error(), "deleted meanwhile") {
		t.Errorf("resize: %v", err)
	}
	if left := left(f.A); len(left) > 0 {
		t.Errorf("left: %v", left)
	}
}

// The agent crashes before and after each act of a conversion. After a restart, the volume has all of its files, in the
// former or in the new dataset, and the conversion ends. Nothing else is left in the pool.
func TestConvertCrashesAtEveryAct(t *testing.T) {
	t.Parallel()
	f := agenttest.NewCluster(t, "loop", "dir")
	d := f.A.NewVolume("db@free")
	created, to := d.Created, "ext4"
	for _, late := range []bool{true, false} {
		for n := 0; ; n++ {
			token := fmt.Sprint(late, n)
			f.A.WriteFile("db", "token", token)
			gone := f.A.Fuse.Set(n, late, nil)
			op := setProfile(f, "db", to)
			done := make(chan dataset.Operation, 1)
			go func() { done <- f.AwaitEnd(op) }()
			select {
			case <-gone:
			case op = <-done: // control has recorded it, and the agent may still work
				agenttest.Await(t, func() bool { return f.A.Fuse.Blown() || !f.A.Operations.IsRunning(op.ID) })
			}
			what, cut := fmt.Sprintf("late %t, act %d of %v", late, n, f.A.Fuse.Seen()), f.A.Fuse.Blown()
			if cut {
				f.A.Restart()
			} else {
				f.A.Fuse.Mend()
			}
			if !op.State.Final() {
				op = <-done
			}
			if op.State != dataset.OpDone {
				t.Fatalf("%s: %s, %+v", what, op.State, op.Problem)
			}
			now := f.Recorded("db")
			if now.Profile.Name != to || !now.Created.Equal(created) || now.ID != op.DatasetRecord.ID {
				t.Fatalf("%s: %+v", what, now.Dataset)
			}
			agenttest.Await(t, func() bool { return f.A.WouldOpen(now.ID) })
			if got := f.A.ReadFile("db", "token"); got != token {
				t.Fatalf("%s: it has %q", what, got)
			}
			agenttest.Await(t, func() bool { return len(left(f.A)) == 0 })
			purgeTrash(f)
			if to = "xfs"; now.Profile.Name == "xfs" {
				to = "ext4"
			}
			if !cut {
				break
			}
			t.Log(what)
		}
	}
}

// The agent crashes after control has recorded a conversion, and control is unreachable after its restart. The agent
// still has the former record, but does not mount that dataset: what a container wrote would be in the trash.
func TestConvertedVolumeIsNotMountedInDoubt(t *testing.T) {
	t.Parallel()
	f := agenttest.NewCluster(t, "loop", "dir")
	d := f.A.NewVolume("db@free")
	f.A.WriteFile("db", "token", "one")
	gone := f.A.DieAfter("commit", 1)
	op := setProfile(f, "db", "ext4")
	<-gone
	if op = f.AwaitEnd(op); op.State != dataset.OpDone {
		t.Fatalf("%s, %+v", op.State, op.Problem)
	}
	f.A.Stop()
	f.A.Fuse.Mend()
	reached := f.A.Config.Control
	f.A.Config.Control = agenttest.UnreachableControl{Service: reached}
	f.A.Start()
	if was, known := f.A.Cache.Dataset(d.ID); !known || was.State != dataset.StateReady {
		t.Fatalf("%+v", was)
	}
	if _, err := f.A.Mount(t.Context(), "db", "user"); !errors.Is(err, dataset.ErrPending) || !strings.Contains(err.Error(), op.ID.String()[:8]) {
		t.Errorf("%v", err)
	}
	f.A.Stop()
	f.A.Config.Control = reached
	f.A.Start()
	now := f.Recorded("db").Dataset
	agenttest.Await(t, func() bool { return f.A.WouldOpen(now.ID) })
	f.A.WantFile("db", "token", "one")
	if left := left(f.A); len(left) > 0 || now.ID == d.ID {
		t.Errorf("left %v, %+v", left, now)
	}
}

// The answer to the report of a conversion is lost. The agent finds out that control has recorded it.
func TestConvertWhoseAnswerIsLost(t *testing.T) {
	t.Parallel()
	f := agenttest.NewCluster(t, "loop", "dir")
	c := doubts(f.A)
	f.A.NewVolume("db@free")
	f.A.WriteFile("db", "token", "one")
	c.loses(dataset.ErrInternal, nil)
	now := converts(f, "db", "ext4")
	agenttest.Await(t, func() bool { return f.A.WouldOpen(now.ID) })
	f.A.WantFile("db", "token", "one")
}

// The new dataset of a conversion is not recorded yet. If control answers again meanwhile, and the leftovers of a crash
// are removed, the dataset stays.
func TestConvertInProgressIsNotReaped(t *testing.T) {
	t.Parallel()
	f := agenttest.NewCluster(t, "loop", "dir")
	b := &between{f.A.Config.Control, func() {}}
	f.A.Stop()
	f.A.Config.Control = b
	f.A.Start()
	f.A.NewVolume("db@free")
	f.A.WriteFile("db", "token", "one")
	joined := false
	b.do = func() {
		b.do = func() {}
		if _, err := f.A.Follower.Join(t.Context()); err != nil {
			t.Error(err)
		}
		cleaned := func(context.Context, *jobs.Job) error { return nil }
		if _, err := f.A.Jobs.Do(t.Context(), "incoming/"+f.A.Pool().ID().String(), "", cleaned); err != nil {
			t.Error(err)
		}
		joined = true
	}
	now := converts(f, "db", "ext4")
	agenttest.Await(t, func() bool { return f.A.WouldOpen(now.ID) })
	f.A.WantFile("db", "token", "one")
	if !joined {
		t.Error("nothing was cleaned up")
	}
}

// purgeTrash destroys everything in the trash.
func purgeTrash(f *agenttest.Cluster) {
	f.Helper()
	trash, err := f.Client.Trash(f.Context(), api.Page{})
	if err != nil {
		f.Fatal(err)
	}
	for _, d := range trash.Items {
		op := f.Submit(api.Request{ID: uuid.New(), Kind: dataset.OpPurge, Volume: d.ID.String()}).Operation
		if ended := f.AwaitEnd(*op); ended.State != dataset.OpDone {
			f.Fatalf("purge: %+v", ended.Problem)
		}
	}
}
