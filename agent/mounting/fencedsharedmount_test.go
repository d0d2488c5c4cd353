package mounting_test

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/uuid"
	"golang.org/x/sys/unix"

	"github.com/droverhq/drover/agent/agenttest"
	"github.com/droverhq/drover/agent/host"
	"github.com/droverhq/drover/control/api"
	"github.com/droverhq/drover/control/store"
	"github.com/droverhq/drover/dataset"
)

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
	if err != nil {
		t.Fatal(err)
	}
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
	if err != nil {
		t.Fatal(err)
	}
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
	if err != nil {
		t.Fatal(err)
	}
	tree := att.Mount.Source
	if err := att.Release(); err != nil {
		t.Fatal(err)
	}
	well := func(when string) {
		t.Helper()
		if err := f.B.SharedMounts.Reconcile(t.Context(), d.ID, uuid.Nil); err != nil || f.B.SharedMounts.Refusal(d.ID) != "" {
			t.Errorf("%s: %v, %q", when, err, f.B.SharedMounts.Refusal(d.ID))
		}
	}
	if err := unix.Unmount(path, 0); err != nil {
		t.Fatal(err)
	}
	well("somebody has unmounted it")
	again := t.TempDir() // the same folders in another mount
	if err := unix.Mount("overlay", again, "overlay", 0, "lowerdir="+filepath.Dir(tree)+":"+t.TempDir()); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = unix.Unmount(again, unix.MNT_DETACH) })
	if err := unix.Mount(filepath.Join(again, filepath.Base(tree)), path, "", unix.MS_BIND, ""); err != nil {
		t.Fatal(err)
	}
	well("the share was mounted anew since")
	f.B.MustUnmount("db", "user")
}

// aside moves a mount away, with the files that are open in it, until the returned function moves it back. Meanwhile
// the path is an empty folder, as if the data was removed.
func aside(t *testing.T, path string) (putBack func()) {
	t.Helper()
	if err := unix.Unmount(path, unix.MNT_DETACH); err != nil {
		t.Fatal(err)
	}
	return func() {
		t.Helper()
		other := t.TempDir()
		if err := unix.Mount(other, path, "", unix.MS_BIND, ""); err != nil {
			t.Fatalf("mount %s on %s: %v", other, path, err)
		}
	}
}
