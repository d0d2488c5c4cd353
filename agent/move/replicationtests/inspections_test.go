package replication_test

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

	"github.com/droverhq/drover/agent/agenttest"
	"github.com/droverhq/drover/agent/host"
	"github.com/droverhq/drover/control/api"
	"github.com/droverhq/drover/dataset"
	"github.com/droverhq/drover/test/assert"
	"github.com/droverhq/drover/test/require"
)

// newOvertaken returns a cluster in which the head of a volume on host-b was superseded by the copy of host-a. The
// file token holds "lost" in that head, and "before" in the volume.
func newOvertaken(t *testing.T) (*agenttest.Cluster, dataset.Dataset) {
	t.Helper()
	f := agenttest.NewCluster(t, "loop", "loop")
	d := f.A.NewVolume("db", map[string]string{"size": "320MiB"})
	f.A.WriteFile("db", "token", "before")
	f.Move("db", f.B)
	f.A.AwaitSettled(d.ID)
	f.B.WriteFile("db", "token", "lost")
	f.B.Stop()
	submits(f, api.Request{Kind: dataset.OpMove, Volume: "db", Node: "host-a", Force: true, Fenced: "host-b"})
	f.B.Start()
	f.B.AwaitSettled(d.ID)
	agenttest.Await(t, func() bool { return f.KeptCopy().Snapshot != uuid.Nil })
	return f, d
}

// submits submits a request, and waits for its end.
func submits(f *agenttest.Cluster, req api.Request) {
	f.Helper()
	req.ID = uuid.New()
	out, err := f.Service.Submit(f.Context(), req)
	require.NoError(f, err)
	if op := f.AwaitEnd(*out.Operation); op.State != dataset.OpDone {
		f.Fatalf("%s: %+v", req.Kind, op.Problem)
	}
}

// shows requests the inspection of the superseded copy, or its end.
func shows(f *agenttest.Cluster, yes bool) {
	f.Helper()
	kind := dataset.OpHide
	if yes {
		kind = dataset.OpShow
	}
	submits(f, api.Request{Kind: kind, Volume: "db", Node: "host-b"})
}

// looksAt waits until the superseded copy can be inspected, and returns the path.
func looksAt(f *agenttest.Cluster) string {
	f.Helper()
	agenttest.Await(f.T, func() bool { return f.KeptCopy().Path != "" })
	path := f.KeptCopy().Path
	if got, err := os.ReadFile(filepath.Join(path, "token")); err != nil || string(got) != "lost" {
		f.Fatalf("%q, %v", got, err)
	}
	return path
}

// nothingShown waits until everything is removed that made the kept copy visible.
func nothingShown(f *agenttest.Cluster, k api.CopyDetail, what string) {
	f.Helper()
	id := host.InspectionID(api.AssignedCopy{Copy: k.Copy})
	path := f.B.MountPath(id)
	agenttest.Await(f.T, func() bool { return f.KeptCopy().Path == "" })
	if _, err := os.Lstat(path); !errors.Is(err, os.ErrNotExist) {
		f.Errorf("%s: %s is there: %v", what, path, err)
	}
	if e, err := f.B.Pool().Stat(f.Context(), id); !errors.Is(err, dataset.ErrNotFound) {
		f.Errorf("%s: the pool has %+v, %v", what, e, err)
	}
}

// A superseded copy can be inspected, read-only, before it is discarded. That continues across restarts and reboots
// of its node, until somebody ends it.
func TestSupersededCopyCanBeInspected(t *testing.T) {
	t.Parallel()
	f, d := newOvertaken(t)
	shows(f, true)
	path := looksAt(f)
	assert.ErrorIsf(t, os.WriteFile(filepath.Join(path, "new"), nil, 0o600), unix.EROFS, "a write")
	_, err := f.Service.Submit(t.Context(), api.Request{ID: uuid.New(), Kind: dataset.OpDiscard, Volume: "db"})
	if !errors.Is(err, dataset.ErrInUse) || !strings.Contains(err.Error(), "drover copy mount db host-b --off") {
		t.Errorf("discarded while somebody looks: %v", err)
	}
	said := 0
	list, err := f.B.Doctor(t.Context())
	for _, l := range list {
		if strings.Contains(l.Subject, path) {
			said++
			if l.Level != api.LevelInfo || !strings.Contains(l.Fix, "--off") {
				t.Errorf("doctor says %+v", l)
			}
		} else if strings.Contains(l.Text+l.Subject, filepath.Base(path)) {
			t.Errorf("doctor says %+v", l)
		}
	}
	if err != nil || said != 1 {
		t.Errorf("doctor says %d times that it is looked at, %v", said, err)
	}

	log := logtest.NewLocal(f.B.Config.Log.(*logrus.Logger))
	f.B.Restart()
	looksAt(f)
	for _, e := range log.AllEntries() {
		if e.Data["path"] == path {
			t.Errorf("after a restart it is not the same mount: %s", e.Message)
		}
	}
	file, err := os.Open(filepath.Join(path, "token"))
	require.NoError(t, err)
	shows(f, false)
	agenttest.Await(t, func() bool { return strings.Contains(f.KeptCopy().Problem, "fuser -vm "+path) })
	looksAt(f)
	require.NoError(t, file.Close())
	nothingShown(f, f.KeptCopy(), "no more")

	shows(f, true)
	path = looksAt(f)
	f.B.Stop()
	if err := unix.Unmount(path, 0); err != nil { // like a reboot
		t.Fatal(err)
	}
	f.B.Start()
	agenttest.Await(t, func() bool { mounted, err := host.IsMountPoint(path); return mounted && err == nil })
	looksAt(f)
	k := f.KeptCopy()
	shows(f, false)
	nothingShown(f, k, "after a reboot")
	if held := f.B.ReadSnapshot(d, k.Snapshot, "token"); held != "lost" {
		t.Errorf("the superseded copy holds %q", held)
	}
	submits(f, api.Request{Kind: dataset.OpDiscard, Volume: "db"})
	agenttest.Await(t, func() bool { return len(f.Recorded("db").CopyDetails) == 0 })
}

// If a copy cannot be mounted yet, the reason is reported, and it is mounted as soon as possible.
func TestInspectionWaitsWhileInUse(t *testing.T) {
	t.Parallel()
	f := agenttest.NewCluster(t, "loop", "loop")
	d := f.A.NewVolume("db", map[string]string{"size": "320MiB"})
	f.Move("db", f.B)
	f.A.AwaitSettled(d.ID)
	f.B.WriteFile("db", "token", "lost")
	f.B.MustMount("db", "user")
	end := agenttest.StartContainer(t, f.B.MountPath(d.ID))
	f.B.Agent.Cancel() // the agent stops, and the mount stays
	f.B.Stop()
	submits(f, api.Request{Kind: dataset.OpMove, Volume: "db", Node: "host-a", Force: true, Fenced: "host-b"})
	f.B.Start()
	agenttest.Await(t, func() bool { _, kept := f.B.Cache.Copy(d.ID); return kept })
	shows(f, true)
	agenttest.Await(t, func() bool { return strings.Contains(f.KeptCopy().Problem, "it is mounted by user on node host-b") })
	end()
	f.B.MustUnmount("db", "user")
	looksAt(f)
	if k := f.KeptCopy(); k.Problem != "" {
		t.Errorf("%+v", k)
	}
}

// The purge of a volume also removes a copy that somebody inspects.
func TestPurgeEndsInspection(t *testing.T) {
	t.Parallel()
	f, d := newOvertaken(t)
	shows(f, true)
	path, k := looksAt(f), f.KeptCopy()
	for _, kind := range []dataset.OpKind{dataset.OpDelete, dataset.OpPurge} {
		submits(f, api.Request{Kind: kind, Volume: d.ID.String()})
	}
	agenttest.Await(t, func() bool {
		_, err := f.B.Pool().Stat(t.Context(), d.ID)
		_, gone := os.Lstat(path)
		return errors.Is(err, dataset.ErrNotFound) && errors.Is(gone, os.ErrNotExist)
	})
	if _, err := f.B.Pool().Stat(t.Context(), host.InspectionID(api.AssignedCopy{Copy: k.Copy})); !errors.Is(err, dataset.ErrNotFound) {
		t.Errorf("%v", err)
	}
}

// After a power cut the last writes of a head may be only in the log of its filesystem. Such a head can be inspected
// as well.
func TestInspectionAfterPowerCut(t *testing.T) {
	t.Parallel()
	f := agenttest.NewCluster(t, "loop", "loop")
	d := f.A.NewVolume("db", map[string]string{"size": "320MiB"})
	path := f.A.MustMount("db", "user")
	w, err := os.Create(filepath.Join(path, "token"))
	if err == nil {
		_, err = w.WriteString("lost")
	}
	require.NoError(t, errors.Join(err, w.Sync(), w.Close()))
	k := api.AssignedCopy{Record: &d, Copy: dataset.Copy{Dataset: d.ID, Node: f.A.Node(), Kind: dataset.CopySuperseded, Snapshot: uuid.New(), MountReadOnly: true}}
	require.NoError(t, f.A.Pool().Snapshot(t.Context(), dataset.Snapshot{ID: k.Snapshot, Dataset: d.ID, Kind: dataset.SnapshotTransfer}, nil))
	f.A.MustUnmount("db", "user")
	unsaved := k
	unsaved.Snapshot = uuid.Nil
	assert.ErrorIs(t, f.A.MountInspection(t.Context(), f.A.Pool(), unsaved), dataset.ErrPending)
	require.NoError(t, f.A.MountInspection(t.Context(), f.A.Pool(), k))
	got, err := os.ReadFile(filepath.Join(f.A.MountPath(host.InspectionID(k)), "token"))
	if err != nil || string(got) != "lost" {
		t.Errorf("%q, %v", got, err)
	}
	assert.NoError(t, f.A.UnmountInspection(t.Context(), f.A.Pool(), k))
}

// A pool that keeps no copies has the head itself, and shows that.
func TestInspectionOfHeadWithoutCopies(t *testing.T) {
	t.Parallel()
	f := agenttest.NewCluster(t, "dir", "dir")
	d := f.A.NewVolume("db", nil)
	f.A.WriteFile("db", "token", "lost")
	k := api.AssignedCopy{Record: &d, Copy: dataset.Copy{Dataset: d.ID, Node: f.A.Node(), Kind: dataset.CopySuperseded, MountReadOnly: true}}
	require.NoError(t, f.A.MountInspection(t.Context(), f.A.Pool(), k))
	path := f.A.MountPath(host.InspectionID(k))
	got, err := os.ReadFile(filepath.Join(path, "token"))
	if err != nil || string(got) != "lost" {
		t.Errorf("%q, %v", got, err)
	}
	assert.ErrorIsf(t, os.Remove(filepath.Join(path, "token")), unix.EROFS, "a removal")
	if e, err := f.A.Pool().Stat(t.Context(), host.InspectionID(k)); !errors.Is(err, dataset.ErrNotFound) {
		t.Errorf("a copy of it was made: %+v, %v", e, err)
	}
	assert.NoError(t, f.A.UnmountInspection(t.Context(), f.A.Pool(), k))
	if _, err := os.Lstat(path); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("%s is left: %v", path, err)
	}
	f.A.WantFile("db", "token", "lost")
}

// The agent crashes before and after every act of an inspection and of its end. After its restart it reaches the
// wanted state, and leaves nothing else.
func TestInspectionCrashesAtEveryAct(t *testing.T) {
	t.Parallel()
	f, _ := newOvertaken(t)
	for _, yes := range []bool{true, false} {
		for _, late := range []bool{false, true} {
			for n := 0; ; n++ {
				if f.KeptCopy().MountReadOnly == yes { // the opposite of the state before
					shows(f, !yes)
					if yes {
						nothingShown(f, f.KeptCopy(), "before")
					} else {
						looksAt(f)
					}
				}
				settled := func() bool { k := f.KeptCopy(); return k.MountReadOnly == yes && (k.Path != "") == yes }
				gone := f.B.Fuse.Set(n, late, nil)
				shows(f, yes)
				cut := false
				agenttest.Await(t, func() bool {
					select {
					case <-gone:
						cut = true
					default:
					}
					return cut || settled()
				})
				what := fmt.Sprintf("mounted %t, late %t: cut at act %d of %v", yes, late, n, f.B.Fuse.Seen())
				if cut {
					f.B.Restart()
				} else {
					f.B.Fuse.Mend()
				}
				agenttest.Await(t, settled)
				if yes {
					looksAt(f)
				} else {
					nothingShown(f, f.KeptCopy(), what)
				}
				if !cut {
					t.Log(what)
					break
				}
			}
		}
	}
}

// The reason why a copy cannot be inspected is recorded once for each kind of failure, even if the text differs at
// each attempt.
func TestInspectionErrorIsRecordedOncePerKind(t *testing.T) {
	t.Parallel()
	f, d := newOvertaken(t)
	shows(f, true)
	looksAt(f)
	f.B.Stop() // so that nobody else reports it
	k, _ := f.B.Cache.Copy(d.ID)
	for _, step := range []struct{ why, told error }{
		{errors.New("loop7: busy"), errors.New("loop7: busy")},
		{errors.New("loop8: busy"), errors.New("loop7: busy")},
		{dataset.Errorf(dataset.ErrNoSpace, "loop9: full"), errors.New("loop9: full")},
		{dataset.Errorf(dataset.ErrNoSpace, "loop10: full"), errors.New("loop9: full")},
		{nil, errors.New("")},
		{dataset.Errorf(dataset.ErrNoSpace, "loop11: full"), errors.New("loop11: full")},
	} {
		k.Copy = f.KeptCopy().Copy // the state of the agent by then
		k.MountReadOnly = true
		require.ErrorIs(t, f.B.Copies.ReportInspection(t.Context(), k, step.why), step.why)
		if told := f.KeptCopy().Problem; told != step.told.Error() {
			t.Errorf("%v: it is on record that %q", step.why, told)
		}
	}
}
