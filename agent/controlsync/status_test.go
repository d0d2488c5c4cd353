package controlsync_test

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"

	"github.com/droverhq/drover/agent"
	"github.com/droverhq/drover/agent/agenttest"
	"github.com/droverhq/drover/agent/controlsync"
	"github.com/droverhq/drover/backends"
	"github.com/droverhq/drover/control/api"
	"github.com/droverhq/drover/control/store"
	"github.com/droverhq/drover/dataset"
	"github.com/droverhq/drover/test/assert"
	"github.com/droverhq/drover/test/require"
)

// When a start has ended control knows the status of each volume: none is unknown.
func TestStatusIsKnownAfterStart(t *testing.T) {
	r := agenttest.New(t)
	d := r.NewVolume("db")
	r.NewVolume("idle")
	r.MountDataset(d, "id")
	r.Stop()
	r.RestartControl() // a restarted control has lost the reported statuses
	r.Start()
	list, err := r.Control.Volumes(t.Context(), api.Page{})
	if err != nil || len(list.Items) != 2 {
		t.Fatal(list, err)
	}
	for _, v := range list.Items {
		if v.Status == nil || v.Status.Mounted != (v.Volume == "db") {
			t.Errorf("volume %s: %+v", v.Volume, v.Status)
		}
	}
	assert.NoError(t, r.Unmount(t.Context(), "db", "id"))
}

// A volume that nobody uses and that cannot be opened is reported until it can be opened.
func TestStatusOfUnopenableVolumeIsReported(t *testing.T) {
	f := &agenttest.FailingBackend{}
	r := agenttest.New(t, func(c *agent.Config) { c.Backends = backends.NewRegistry(f) })
	r.NewVolume("db")
	told := func(what string) {
		t.Helper()
		agenttest.Await(t, func() bool {
			r.FakeClock.Advance(r.Timing.Heartbeat)
			v, err := r.Control.Volume(t.Context(), "db")
			return err == nil && v.Status != nil && (v.Status.Problem == "") == (what == "") && strings.Contains(v.Status.Problem, what)
		})
	}
	f.Offline.Store(true)
	r.Restart()
	told("its disk is gone")
	f.Offline.Store(false)
	told("")
}

// A create does not wait for another question to its pool: concurrent creates would reach the store one by one.
func TestCreateDoesNotWaitForQuestionToPool(t *testing.T) {
	f := agenttest.NewCluster(t, "loop", "dir")
	pool := f.A.NewVolume("first").Pool
	asked, answer, ended := make(chan struct{}), make(chan struct{}), make(chan error, 1)
	go func() {
		ended <- f.A.Pools.Ask(t.Context(), pool, func(backends.Pool) { close(asked); <-answer })
	}()
	<-asked
	d := f.A.NewVolume("db")
	v, err := f.Service.Volume(t.Context(), "db")
	if err != nil || v.Status == nil || v.Status.ID != d.ID {
		t.Errorf("the status after the create is %+v, %v; want that of the new dataset", v.Status, err)
	}
	close(answer)
	assert.NoError(t, <-ended)
}

// The home of a volume that nobody uses checks that its data still exists, and reports that to control. Otherwise the
// other copies would be removed because the volume is believed to be healthy.
func TestI3IdleVolumeIsCheckedAndReported(t *testing.T) {
	t.Parallel()
	for backend, head := range map[string]string{"loop": "head.img", "dir": ""} {
		t.Run(backend, func(t *testing.T) {
			f := agenttest.NewCluster(t, backend, backend)
			d := f.A.NewVolume("db@plain", nil)
			problem := func() (string, bool) {
				v, err := f.A.Control.Volume(t.Context(), "db")
				if err != nil || v.Status == nil {
					return "", false
				}
				return v.Status.Problem, true
			}
			agenttest.Await(t, func() bool { why, told := problem(); return told && why == "" })
			s := *f.AwaitEnd(*f.Submit(api.Request{Kind: dataset.OpSnapshot, Volume: "db"}).Operation).Snapshot
			if backend == "dir" { // the whole dataset is missing, with its snapshots
				s.ID = uuid.Nil
			}
			data := filepath.Join(f.A.Pools.All()[0].Path, "datasets", d.ID.String(), head)
			agenttest.Await(t, func() bool { return os.RemoveAll(data) == nil }) // the record may be written meanwhile
			agenttest.Await(t, func() bool { why, _ := problem(); return why != "" })
			want := "drover backup ls db lists the backups"
			if s.ID != uuid.Nil {
				want = "(drover snapshot restore db " + s.ID.String()[:8] + " continues from its newest snapshot, of "
			}
			if why, _ := problem(); !strings.Contains(why, want) {
				t.Errorf("the problem %q does not say %q", why, want)
			}
		})
	}
}

// A control that restarts with another store gets the status of every dataset: the report that the store is
// inconsistent arrives first, and must not be taken for the full report.
func TestRestartedControlWithOtherStoreGetsEveryStatus(t *testing.T) {
	r := agenttest.New(t)
	r.NewVolume("db")
	r.MustMount("db", "user")
	mounted := func() bool {
		st := r.Cluster.Recorded("db").Status
		return st != nil && st.Mounted
	}
	await := func() {
		t.Helper()
		agenttest.Await(t, func() bool {
			r.FakeClock.Advance(100 * time.Millisecond)
			return mounted()
		})
	}
	await()
	r.Link.ChangeSync(func(s *api.Sync) { s.Cluster = uuid.New() })
	r.RestartControl()
	_, err := r.Follower.Join(t.Context())
	require.NoError(t, err)
	if r.Trust.Err() == nil {
		t.Fatal("the other store is trusted")
	}
	if mounted() {
		t.Fatal("control knows a status that was not reported since its start")
	}
	await()
}

// TestManyUsagesAreSaved: a transaction of the database is bounded, and the usages of a node are not.
func TestManyUsagesAreSaved(t *testing.T) {
	r := agenttest.New(t)
	const n = 2*store.MaxOps + 1
	for range n {
		controlsync.NoteUsage(r.Status, uuid.New())
	}
	require.NoError(t, r.Status.SaveUsages(t.Context()))
	saved := 0
	if err := r.DB.Each(t.Context(), "usage/", func(string, []byte) error { saved++; return nil }); err != nil || saved != n {
		t.Errorf("%d usages are saved, want %d: %v", saved, n, err)
	}
	r.Restart() // none of these datasets exists, so all are removed
	assert.NoError(t, r.Status.SaveUsages(t.Context()))
}

// TestLastAnswerSurvivesRestart: an agent that starts while control is unreachable knows how old its records are.
func TestLastAnswerSurvivesRestart(t *testing.T) {
	r := agenttest.New(t)
	agenttest.Await(t, func() bool { return !r.Reporter.LastAnswer().IsZero() })
	r.Link.Cut()
	at := r.Reporter.LastAnswer()
	r.Restart()
	if got := r.Reporter.LastAnswer(); got.Before(at) || got.Sub(at).Minutes() > 1 {
		t.Errorf("control last answered at %v, want %v", got, at)
	}
}

// The home reports by which names its engine has a volume mounted, where, and which aliases the engine knows. It reports a
// change of them at once, also while the volume is not mounted.
func TestNamesOfMountsAreReported(t *testing.T) {
	t.Parallel()
	ctx := t.Context()
	f := agenttest.NewCluster(t, "dir", "dir")
	d := f.A.NewVolume("old@plain", nil)
	await := func(what string, aliases []string, names ...string) {
		t.Helper()
		f.AwaitNamed(what, func() bool {
			v, err := f.A.Control.Volume(ctx, d.ID.String())
			if err != nil || v.Status == nil || len(v.Status.Mounts) != min(len(names), 1) {
				return false
			}
			if path := f.A.MountPath(d.ID); v.Status.Mounted && v.Status.MountPath != path || !v.Status.Mounted && v.Status.MountPath != "" {
				t.Fatalf("mounted: %v, at %q instead of %q", v.Status.Mounted, v.Status.MountPath, path)
			}
			return slices.Equal(v.Status.EngineAliases, aliases) &&
				(len(names) == 0 || slices.Equal(v.Status.Mounts[0].Names, names))
		})
	}
	check := func(err error) {
		t.Helper()
		require.NoError(t, err)
	}
	await("no alias", nil)
	f.SetNames("old", "new", "old")
	await("the alias of the request", []string{"old@plain"})
	_, err := f.A.Mount(ctx, "new", "m")
	check(err)
	await("a mount by the name", []string{"old@plain"}, "new")
	_, err = f.A.Mount(ctx, "old", "m")
	check(err)
	await("a mount by both", []string{"old", "old@plain"}, "new", "old")
	v, err := f.A.Control.Volume(ctx, "new")
	check(err)
	if n := len(v.Status.MountsBy("old")); n != 1 || len(v.Status.MountsBy("other")) != 0 {
		t.Errorf("%d mounts by the alias in %+v", n, v.Status.Mounts)
	}
	check(f.A.Unmount(ctx, "new", "m"))
	check(f.A.Unmount(ctx, "old", "m"))
	await("not mounted", []string{"old", "old@plain"})
	for i, spelling := range []string{"old", "old@plain"} {
		check(f.A.Remove(ctx, spelling))
		await("without "+spelling, [][]string{{"old@plain"}, nil}[i])
	}
	var unknown dataset.DatasetStatus
	unknown.Mounts = []dataset.Mount{{ID: "m"}}
	if len(unknown.MountsBy("old")) != 1 {
		t.Error("a mount whose names are not known must count")
	}
}

func TestMain(m *testing.M) { agenttest.Main(m) }
