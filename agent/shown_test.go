package agent

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/uuid"
	"github.com/sirupsen/logrus"
	logtest "github.com/sirupsen/logrus/hooks/test"
	"golang.org/x/sys/unix"

	"github.com/droverhq/drover/agent/findings"
	"github.com/droverhq/drover/agent/host"
	"github.com/droverhq/drover/agent/records"
	"github.com/droverhq/drover/control/api"
	"github.com/droverhq/drover/dataset"
)

// overtaken is a flock in which the head that host-b had of a volume was overtaken by the
// copy of host-a. Its file token holds "lost", and in the volume "before".
func newOvertaken(t *testing.T) (*flock, dataset.Dataset) {
	t.Helper()
	f := newFlock(t, "loop", "loop")
	d := f.a.volume("db", map[string]string{"size": "320MiB"})
	f.a.writes("db", "token", "before")
	f.moves("db", f.b)
	f.a.settled(d.ID)
	f.b.writes("db", "token", "lost")
	f.b.down()
	f.submits(api.Request{Kind: dataset.OpMove, Volume: "db", Node: "host-a", Force: true, Fenced: "host-b"})
	f.b.up()
	f.b.settled(d.ID)
	await(t, func() bool { return f.kept().Snapshot != uuid.Nil })
	return f, d
}

// submits asks for something, and waits for the end of it.
func (f *flock) submits(req api.Request) {
	f.Helper()
	req.ID = uuid.New()
	out, err := f.svc.Submit(f.Context(), req)
	if err != nil {
		f.Fatal(err)
	}
	if op := f.ended(*out.Operation); op.State != dataset.OpDone {
		f.Fatalf("%s: %+v", req.Kind, op.Problem)
	}
}

// kept is the one copy of volume db, none: nothing.
func (f *flock) kept() api.KeptCopy {
	f.Helper()
	for _, k := range f.record("db").Kept {
		return k
	}
	return api.KeptCopy{}
}

// shows asks for a look at what was overtaken, or for the end of that.
func (f *flock) shows(yes bool) {
	f.Helper()
	kind := dataset.OpHide
	if yes {
		kind = dataset.OpShow
	}
	f.submits(api.Request{Kind: kind, Volume: "db", Node: "host-b"})
}

// looksAt waits until what was overtaken can be looked at, and returns where.
func (f *flock) looksAt() string {
	f.Helper()
	await(f.T, func() bool { return f.kept().Path != "" })
	path := f.kept().Path
	if got, err := os.ReadFile(filepath.Join(path, "token")); err != nil || string(got) != "lost" {
		f.Fatalf("%q, %v", got, err)
	}
	return path
}

// nothingShown waits until all is gone that showed the copy that was kept.
func (f *flock) nothingShown(k api.KeptCopy, what string) {
	f.Helper()
	id := records.ShownAs(api.Kept{Copy: k.Copy})
	path := f.b.MountPath(id)
	await(f.T, func() bool { return f.kept().Path == "" })
	if _, err := os.Lstat(path); !errors.Is(err, os.ErrNotExist) {
		f.Errorf("%s: %s is there: %v", what, path, err)
	}
	if e, err := f.b.thePool().Stat(f.Context(), id); !errors.Is(err, dataset.ErrNotFound) {
		f.Errorf("%s: the pool has %+v, %v", what, e, err)
	}
}

// What was overtaken can be looked at, read-only, before it is discarded, through restarts
// and reboots of its node, and until somebody says that it is enough.
func TestShown(t *testing.T) {
	t.Parallel()
	f, d := newOvertaken(t)
	f.shows(true)
	path := f.looksAt()
	if err := os.WriteFile(filepath.Join(path, "new"), nil, 0o600); !errors.Is(err, unix.EROFS) {
		t.Errorf("a write: %v", err)
	}
	_, err := f.svc.Submit(t.Context(), api.Request{ID: uuid.New(), Kind: dataset.OpDiscard, Volume: "db"})
	if !errors.Is(err, dataset.ErrInUse) || !strings.Contains(err.Error(), "drover volume superseded mount db host-b --off") {
		t.Errorf("discarded while somebody looks: %v", err)
	}
	said := 0
	list, err := f.b.Doctor(t.Context())
	for _, l := range list {
		if strings.Contains(l.Subject, path) {
			said++
			if l.Level != findings.Info || !strings.Contains(l.Mend, "--off") {
				t.Errorf("doctor says %+v", l)
			}
		} else if strings.Contains(l.Text+l.Subject, filepath.Base(path)) {
			t.Errorf("doctor says %+v", l)
		}
	}
	if err != nil || said != 1 {
		t.Errorf("doctor says %d times that it is looked at, %v", said, err)
	}

	log := logtest.NewLocal(f.b.cfg.Log.(*logrus.Logger))
	f.b.again()
	f.looksAt()
	for _, e := range log.AllEntries() {
		if e.Data["path"] == path {
			t.Errorf("after a restart it is not the same mount: %s", e.Message)
		}
	}
	file, err := os.Open(filepath.Join(path, "token"))
	if err != nil {
		t.Fatal(err)
	}
	f.shows(false)
	await(t, func() bool { return strings.Contains(f.kept().Problem, "fuser -vm "+path) })
	f.looksAt()
	if err := file.Close(); err != nil {
		t.Fatal(err)
	}
	f.nothingShown(f.kept(), "no more")

	f.shows(true)
	path = f.looksAt()
	f.b.down()
	if err := unix.Unmount(path, 0); err != nil { // as a reboot does
		t.Fatal(err)
	}
	f.b.up()
	await(t, func() bool { mounted, err := host.IsMountPoint(path); return mounted && err == nil })
	f.looksAt()
	k := f.kept()
	f.shows(false)
	f.nothingShown(k, "after a reboot")
	if held := f.b.holds(d, k.Snapshot, "token"); held != "lost" {
		t.Errorf("what was overtaken holds %q", held)
	}
	f.submits(api.Request{Kind: dataset.OpDiscard, Volume: "db"})
	await(t, func() bool { return len(f.record("db").Kept) == 0 })
}

// What cannot be mounted yet is told, with the reason, and done once it can.
func TestShownWhileInUse(t *testing.T) {
	t.Parallel()
	f := newFlock(t, "loop", "loop")
	d := f.a.volume("db", map[string]string{"size": "320MiB"})
	f.moves("db", f.b)
	f.a.settled(d.ID)
	f.b.writes("db", "token", "lost")
	f.b.mounts("db", "user")
	f.b.Agent.stop() // it dies, and the mount stays
	f.b.down()
	f.submits(api.Request{Kind: dataset.OpMove, Volume: "db", Node: "host-a", Force: true, Fenced: "host-b"})
	f.b.up()
	await(t, func() bool { _, kept := f.b.Cache.Copy(d.ID); return kept })
	f.shows(true)
	await(t, func() bool { return strings.Contains(f.kept().Problem, "it is mounted by user on node host-b") })
	f.b.unmounts("db", "user")
	f.looksAt()
	if k := f.kept(); k.Problem != "" {
		t.Errorf("%+v", k)
	}
}

// A volume that is purged takes with it what somebody looks at.
func TestShownIsPurged(t *testing.T) {
	t.Parallel()
	f, d := newOvertaken(t)
	f.shows(true)
	path, k := f.looksAt(), f.kept()
	for _, kind := range []dataset.OpKind{dataset.OpDelete, dataset.OpPurge} {
		f.submits(api.Request{Kind: kind, Volume: d.ID.String()})
	}
	await(t, func() bool {
		_, err := f.b.thePool().Stat(t.Context(), d.ID)
		_, gone := os.Lstat(path)
		return errors.Is(err, dataset.ErrNotFound) && errors.Is(gone, os.ErrNotExist)
	})
	if _, err := f.b.thePool().Stat(t.Context(), records.ShownAs(api.Kept{Copy: k.Copy})); !errors.Is(err, dataset.ErrNotFound) {
		t.Errorf("%v", err)
	}
}

// A head of which a power cut left the last in its filesystem's log alone can be looked at
// as well.
func TestShownAfterAPowerCut(t *testing.T) {
	t.Parallel()
	f := newFlock(t, "loop", "loop")
	d := f.a.volume("db", map[string]string{"size": "320MiB"})
	path := f.a.mounts("db", "user")
	w, err := os.Create(filepath.Join(path, "token"))
	if err == nil {
		_, err = w.WriteString("lost")
	}
	if err := errors.Join(err, w.Sync(), w.Close()); err != nil {
		t.Fatal(err)
	}
	k := api.Kept{Record: &d, Copy: dataset.Copy{Dataset: d.ID, Node: f.a.Node(), Kind: dataset.CopySuperseded, Snapshot: uuid.New(), Shown: true}}
	if err := f.a.thePool().Snapshot(t.Context(), dataset.Snapshot{ID: k.Snapshot, Dataset: d.ID, Kind: dataset.SnapshotTransfer}, nil); err != nil {
		t.Fatal(err)
	}
	f.a.unmounts("db", "user")
	if err := f.a.inspections.Mount(t.Context(), f.a.thePool(), k); err != nil {
		t.Fatal(err)
	}
	got, err := os.ReadFile(filepath.Join(f.a.MountPath(records.ShownAs(k)), "token"))
	if err != nil || string(got) != "lost" {
		t.Errorf("%q, %v", got, err)
	}
	if err := f.a.inspections.Unmount(t.Context(), f.a.thePool(), k); err != nil {
		t.Error(err)
	}
}

// A pool that keeps no copies has the head as it lies, and shows that.
func TestShownAsItLies(t *testing.T) {
	t.Parallel()
	f := newFlock(t, "dir", "dir")
	d := f.a.volume("db", nil)
	f.a.writes("db", "token", "lost")
	k := api.Kept{Record: &d, Copy: dataset.Copy{Dataset: d.ID, Node: f.a.Node(), Kind: dataset.CopySuperseded, Shown: true}}
	if err := f.a.inspections.Mount(t.Context(), f.a.thePool(), k); err != nil {
		t.Fatal(err)
	}
	path := f.a.MountPath(records.ShownAs(k))
	got, err := os.ReadFile(filepath.Join(path, "token"))
	if err != nil || string(got) != "lost" {
		t.Errorf("%q, %v", got, err)
	}
	if err := os.Remove(filepath.Join(path, "token")); !errors.Is(err, unix.EROFS) {
		t.Errorf("a removal: %v", err)
	}
	if e, err := f.a.thePool().Stat(t.Context(), records.ShownAs(k)); !errors.Is(err, dataset.ErrNotFound) {
		t.Errorf("a copy of it was made: %+v, %v", e, err)
	}
	if err := f.a.inspections.Unmount(t.Context(), f.a.thePool(), k); err != nil {
		t.Error(err)
	}
	if _, err := os.Lstat(path); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("%s is left: %v", path, err)
	}
	if got := f.a.reads("db", "token"); got != "lost" {
		t.Errorf("it holds %q", got)
	}
}

// The agent dies at every act of a look, and of its end, before it and after. Started again
// it comes to what is wanted, and leaves nothing else.
func TestShownCutShort(t *testing.T) {
	t.Parallel()
	f, _ := newOvertaken(t)
	for _, yes := range []bool{true, false} {
		for _, late := range []bool{false, true} {
			for n := 0; ; n++ {
				if f.kept().Shown == yes { // the other before it
					f.shows(!yes)
					if yes {
						f.nothingShown(f.kept(), "before")
					} else {
						f.looksAt()
					}
				}
				settled := func() bool { k := f.kept(); return k.Shown == yes && (k.Path != "") == yes }
				gone := f.b.fuse.set(n, late, nil)
				f.shows(yes)
				cut := false
				await(t, func() bool {
					select {
					case <-gone:
						cut = true
					default:
					}
					return cut || settled()
				})
				what := fmt.Sprintf("mounted %t, late %t: cut at act %d of %v", yes, late, n, f.b.fuse.seen())
				if cut {
					f.b.again()
				} else {
					f.b.fuse.mend()
				}
				await(t, settled)
				if yes {
					f.looksAt()
				} else {
					f.nothingShown(f.kept(), what)
				}
				if !cut {
					t.Log(what)
					break
				}
			}
		}
	}
}

// What stands in the way of a look is on record once for each kind of failure, also where the
// words differ each time that it is tried.
func TestShownFailsInOtherWords(t *testing.T) {
	t.Parallel()
	f, d := newOvertaken(t)
	f.shows(true)
	f.looksAt()
	f.b.down() // and nobody else tells of it
	k, _ := f.b.Cache.Copy(d.ID)
	for _, step := range []struct{ why, told error }{
		{errors.New("loop7: busy"), errors.New("loop7: busy")},
		{errors.New("loop8: busy"), errors.New("loop7: busy")},
		{dataset.Errorf(dataset.ErrNoSpace, "loop9: full"), errors.New("loop9: full")},
		{dataset.Errorf(dataset.ErrNoSpace, "loop10: full"), errors.New("loop9: full")},
		{nil, errors.New("")},
		{dataset.Errorf(dataset.ErrNoSpace, "loop11: full"), errors.New("loop11: full")},
	} {
		k.Copy = f.kept().Copy // as the agent has it by then
		k.Shown = true
		if err := f.b.inspections.Report(t.Context(), k, step.why); !errors.Is(err, step.why) {
			t.Fatal(err)
		}
		if told := f.kept().Problem; told != step.told.Error() {
			t.Errorf("%v: it is on record that %q", step.why, told)
		}
	}
}
