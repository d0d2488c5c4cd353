package doctor_test

import (
	"context"
	"errors"
	"maps"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/uuid"

	"github.com/droverhq/drover/agent"
	"github.com/droverhq/drover/agent/agenttest"
	"github.com/droverhq/drover/agent/doctor"
	"github.com/droverhq/drover/agent/host"
	"github.com/droverhq/drover/agent/pool"
	"github.com/droverhq/drover/backends"
	"github.com/droverhq/drover/backends/loop"
	"github.com/droverhq/drover/control/api"
	"github.com/droverhq/drover/dataset"
	"github.com/droverhq/drover/internal/run"
	"github.com/droverhq/drover/internal/scratch"
	"github.com/droverhq/drover/test/assert"
	"github.com/droverhq/drover/test/require"
)

// While doctor looks at the pools and then at the records, other work continues. A dataset that was deleted, created
// or put in its place meanwhile is no finding.
func TestDoctorIgnoresWorkInProgress(t *testing.T) {
	r := agenttest.New(t)
	d := r.NewVolume("db")
	p, ok := r.Pools.ByName("default")
	if !ok {
		t.Fatal("no pool")
	}
	entries, err := p.Storage.List(t.Context())
	if err != nil || len(entries) != 1 {
		t.Fatal(entries, err)
	}
	known := map[uuid.UUID]dataset.Dataset{d.ID: d}
	gone := backends.Entry{ID: uuid.New(), State: backends.EntryDeleting, Path: filepath.Join(r.Root, "gone")}
	found := func(entries []backends.Entry, known map[uuid.UUID]dataset.Dataset) []string {
		rep := &doctor.Report{}
		r.CheckEntries(t.Context(), rep, p, entries, known)
		var texts []string
		for _, f := range rep.List {
			texts = append(texts, f.Level+": "+f.Subject+": "+f.Text+": "+f.Fix)
		}
		return texts
	}
	purged := d
	purged.ID = uuid.New()
	for name, c := range map[string]struct {
		entries []backends.Entry
		known   map[uuid.UUID]dataset.Dataset
	}{
		"as it is":      {entries, known},
		"deleted since": {append(entries, gone), known},
		"made since":    {entries, nil},
		"placed since":  {nil, known},
		"purged since":  {entries, map[uuid.UUID]dataset.Dataset{d.ID: d, purged.ID: purged}},
	} {
		if got := found(c.entries, c.known); len(got) > 0 {
			t.Errorf("%s: %q", name, got)
		}
	}

	// A permanent problem is found.
	left := gone
	left.Path = r.Root
	strange := backends.Entry{ID: uuid.New(), State: backends.EntryReady, Path: r.Root}
	for name, e := range map[string]backends.Entry{"left by a crash": left, "not on record": strange} {
		if got := found(append(entries, e), maps.Clone(known)); len(got) != 1 {
			t.Errorf("%s: %q", name, got)
		}
	}
	require.NoError(t, p.Storage.Delete(t.Context(), d.ID))
	if got := found(nil, known); len(got) != 1 || !strings.HasSuffix(got[0], ": put back the disk that has it; drover volume rm db --dry-run shows what is lost without it") {
		t.Errorf("on record and not in the pool: %q", got)
	}
}

// TestForeignFilesHaveARemedy: the findings about files that are not Drover's say what to do with them.
func TestForeignFilesHaveARemedy(t *testing.T) {
	r := agenttest.New(t)
	d := r.NewVolume("db")
	p, ok := r.Pools.ByName("default")
	if !ok {
		t.Fatal("no pool")
	}
	known := map[uuid.UUID]dataset.Dataset{d.ID: d}
	for name, tc := range map[string]struct {
		entry backends.Entry
		want  string
	}{
		"file": {backends.Entry{State: backends.EntryForeign, Path: "/p/notes.txt", Problem: "no UUID"}, "(ls -la /p/notes.txt), and move it"},
		"name with blanks": {backends.Entry{State: backends.EntryForeign, Path: "/p/a $(reboot)", Problem: "no UUID"},
			"(ls -la '/p/a $(reboot)'), and move it"},
		"dataset that cannot be read": {backends.Entry{State: backends.EntryForeign, Path: "/p/datasets/" + d.ID.String(),
			Problem: "input/output error"}, "leave it there, because it has the name of the dataset of volume db"},
		"data without a record": {backends.Entry{State: backends.EntryForeign, Path: "/dev/vg/drover-" + uuid.NewString(),
			Problem: "no record names it"}, "leave it there, because it has the name of a dataset"},
		"device":  {backends.Entry{State: backends.EntryForeign, Path: "/dev/vg/other", Problem: "no UUID"}, "find out who made it"},
		"no path": {backends.Entry{State: backends.EntryForeign, Path: "tank/other", Problem: "no UUID"}, "move it out of the pool"},
		"in a dataset": {backends.Entry{ID: d.ID, State: backends.EntryReady, Path: "/p/x", Problem: "it contains foreign files: a", ForeignFiles: []string{"a"}},
			"move them out of /p/x"},
	} {
		rep := &doctor.Report{StoreProblem: "without the check of missing datasets"}
		r.CheckEntries(t.Context(), rep, p, []backends.Entry{tc.entry}, known)
		if len(rep.List) != 1 || !strings.Contains(rep.List[0].Fix, tc.want) {
			t.Errorf("%s: %+v, want the remedy %q", name, rep.List, tc.want)
		}
	}
}

// A copy of a dataset whose home is another node, and snapshots that belong to copies, are normal: they are not
// quarantined, and no rebuild brings them back.
func TestCopiesAreNotQuarantined(t *testing.T) {
	r := agenttest.New(t)
	d := r.NewVolume("db")
	p, ok := r.Pools.ByName("default")
	if !ok {
		t.Fatal("no pool")
	}
	known := map[uuid.UUID]dataset.Dataset{d.ID: d}
	theirs := backends.Entry{ID: uuid.New(), State: backends.EntryCopy, Path: r.Root}
	r.Cache.SetCopy(theirs.ID, &api.AssignedCopy{Copy: dataset.Copy{Dataset: theirs.ID, Kind: dataset.CopyReplica}})
	damaged := theirs
	damaged.Problem = "cannot read its record"
	for want, entry := range []backends.Entry{theirs, damaged} {
		rep := &doctor.Report{}
		r.CheckEntries(t.Context(), rep, p, []backends.Entry{entry}, nil)
		if len(rep.List) != want {
			t.Errorf("of %+v: %+v", entry, rep.List)
		}
		if f, ok := r.Holdings.FoundDataset(entry, false); ok {
			t.Errorf("brought back: %+v", f)
		}
	}
	stranger := theirs
	stranger.ID = uuid.New()
	rep := &doctor.Report{}
	if r.CheckEntries(t.Context(), rep, p, []backends.Entry{stranger}, nil); len(rep.List) != 1 || !strings.Contains(rep.List[0].Fix, "--gc") {
		t.Errorf("of a copy that is not on record: %+v", rep.List)
	}
	for want, kind := range []dataset.SnapshotKind{dataset.SnapshotTransfer, dataset.SnapshotManual} {
		s := dataset.Snapshot{ID: uuid.New(), Dataset: d.ID, Kind: kind}
		require.NoError(t, p.Storage.Snapshot(t.Context(), s, nil))
		entries, err := p.Storage.List(t.Context())
		if err != nil || len(entries) != 1 {
			t.Fatal(entries, err)
		}
		rep := &doctor.Report{}
		r.CheckSnapshots(t.Context(), rep, p, entries, known)
		if len(rep.List) != want {
			t.Errorf("with a snapshot of kind %s: %+v", kind, rep.List)
		}
		if f, ok := r.Holdings.FoundDataset(entries[0], false); !ok || len(f.Snapshots) != want {
			t.Errorf("with a snapshot of kind %s a rebuild has %+v", kind, f.Snapshots)
		}
	}
}

// While the store is not trusted the first line of doctor is the rebuild, and no line tells how to destroy something
// that a rebuild would bring back. Such data cannot be destroyed either.
func TestDoctorOfLostStoreOffersRebuildFirst(t *testing.T) {
	r := agenttest.New(t)
	ctx := t.Context()
	db, waste := r.NewVolume("db"), r.NewVolume("waste")
	require.NoError(t, r.Remove(ctx, "waste"))
	blank := r.NewIncoming() // as after a restart: nothing is on record
	require.NoError(t, os.WriteFile(filepath.Join(r.Root, "pool/incoming", blank.ID.String(), "record.json"), []byte("no record"), 0o600))
	r.LoseStore(false)
	all := func() (text string, first api.Finding) {
		t.Helper()
		found, err := r.Doctor(ctx)
		require.NoError(t, err)
		for _, f := range found {
			text += f.Level + ": " + f.Subject + ": " + f.Text + " (" + f.Fix + ")\n"
		}
		return text, found[0]
	}
	text, first := all()
	if first.Subject != "store" || first.Level != api.LevelError || first.Fix != "drover store recover --from-pools" || !strings.Contains(first.Text, "3 datasets in the pools are not in it") {
		t.Errorf("the first line: %+v", first)
	}
	for _, no := range []string{"--gc", "purge", " rm ", "quarantined", db.ID.String(), waste.ID.String()} {
		if strings.Contains(text, no) {
			t.Errorf("%q is in\n%s", no, text)
		}
	}
	if _, err := r.Collect(ctx, db.ID, false); !errors.Is(err, dataset.ErrConflict) || !strings.Contains(err.Error(), "drover store recover --from-pools") {
		t.Errorf("collect: %v", err)
	}
	_, err := r.RebuildStore(ctx, api.RebuildStore{})
	require.NoError(t, err)
	if text, _ = all(); strings.Contains(text, db.ID.String()) || strings.Contains(text, "error: store") {
		t.Errorf("after the rebuild:\n%s", text)
	}
	if got := r.DatasetFinding(blank); !strings.Contains(got, "(drover doctor --gc "+blank.ID.String()) {
		t.Errorf("of what the rebuild cannot bring back: %q", got)
	}
	_, err = r.Collect(ctx, blank.ID, false)
	assert.NoError(t, err)
}

// Doctor reports a recorded replica in a pool that this node does not have, one that cannot be refreshed, and one whose
// data has not arrived yet.
func TestDoctorReportsMissingLateAndNewReplicas(t *testing.T) {
	r := agenttest.New(t)
	p, _ := r.Pools.ByName("default")
	ghost, behind, fresh, well := uuid.New(), uuid.New(), uuid.New(), uuid.New()
	for id, pool := range map[uuid.UUID]uuid.UUID{ghost: uuid.New(), behind: p.ID, fresh: p.ID, well: p.ID} {
		d := dataset.Dataset{ID: id, Volume: "v" + id.String(), State: dataset.StateReady}
		k := dataset.Copy{Dataset: id, Pool: pool, Kind: dataset.CopyReplica}
		if id == well {
			k.Snapshot = uuid.New()
		}
		r.Cache.SetCopy(id, &api.AssignedCopy{Copy: k, Record: &d})
	}
	arriving, release := make(chan struct{}), make(chan struct{})
	r.Jobs.Start("replica/"+fresh.String(), func(_ context.Context, jb *host.Job) error {
		jb.SetProgress(256<<20, 1<<30)
		close(arriving)
		<-release
		return nil
	})
	defer close(release)
	<-arriving
	r.Agent.Replicas.SetFailure(behind, "no way to its home")
	rep := &doctor.Report{}
	r.CheckReplicas(rep)
	said := map[string]api.Finding{}
	for _, f := range rep.List {
		said[f.Subject] = f
	}
	if f := said["volume v"+ghost.String()]; f.Level != api.LevelError || !strings.Contains(f.Text, ", which does not exist on this node") || !strings.Contains(f.Fix, "drover node drain host-a") {
		t.Errorf("in a pool that is not here: %+v", f)
	}
	if f := said["volume v"+behind.String()]; f.Level != api.LevelWarning || !strings.Contains(f.Text, "no way to its home") {
		t.Errorf("not refreshed: %+v", f)
	}
	if f := said["volume v"+fresh.String()]; f.Level != api.LevelInfo || f.Text != "degraded: building replica on this node: 25% (256MiB of 1GiB)" {
		t.Errorf("not complete: %+v", f)
	}
	if len(said) != 3 {
		t.Errorf("%+v", rep.List)
	}
}

// missingKind is a backend that this host cannot run.
type missingKind struct {
	backends.Kind
	name string
}

func (k missingKind) Name() string { return k.name }

func (k missingKind) Available(context.Context) error {
	return dataset.Errorf(dataset.ErrUnsupported, "backend %s: no tools", k.name)
}

// If no pool is of a backend, the missing tools of that backend are no problem.
func TestDoctorIgnoresMissingToolsOfUnusedBackend(t *testing.T) {
	r := agenttest.New(t)
	p, _ := r.Pools.ByName("default")
	for name, level := range map[string]string{p.Backend: api.LevelWarning, "other": api.LevelInfo} {
		rep := &doctor.Report{}
		doctor.CheckBackends(t.Context(), rep, []backends.Kind{missingKind{name: name}}, r.Pools.All())
		if len(rep.List) != 1 || rep.List[0].Level != level || !strings.Contains(rep.List[0].Text, "no tools") {
			t.Errorf("%s: %+v", name, rep.List)
		}
	}
}

// For each pool one line lists the capabilities that it lacks and that other pools have.
func TestDoctorReportsCapabilitiesThatPoolLacks(t *testing.T) {
	r := agenttest.New(t)
	said := ""
	found, err := r.Doctor(t.Context())
	require.NoError(t, err)
	for _, f := range found {
		if f.Subject == "pool default" && strings.Contains(f.Text, "limits of backend") {
			said = f.Level + ": " + f.Text
		}
	}
	for _, want := range []string{"ok: limits of backend dir: ", "the size of a volume is no hard limit; ", "every file is visited",
		"the speed of a volume cannot be limited", "volumes cannot be encrypted", "no replicas"} {
		if !strings.Contains(said, want) {
			t.Errorf("%q is not in %q", want, said)
		}
	}
}

// The disk of a pool hangs while doctor lists it: further examinations, at the same time and later, do not ask it
// again, and say that it hangs. Once it answers, it is examined again.
func TestDoctorOfHangingPool(t *testing.T) {
	h := &agenttest.HangingBackend{}
	r := agenttest.New(t, func(c *agent.Config) {
		c.Backends = backends.NewRegistry(h)
		c.Pools = append(c.Pools, pool.Config{Name: "other", Backend: "dir", Path: filepath.Join(c.Root, "other")})
	})
	t.Cleanup(h.Resume)
	h.Hang("list")
	examine := func() api.Finding {
		all, err := r.Doctor(t.Context())
		assert.NoError(t, err)
		for _, f := range all {
			if f.Subject == "pool other" && f.Level == api.LevelError {
				return f
			}
		}
		return api.Finding{}
	}
	for range 3 {
		var all sync.WaitGroup
		for range 3 {
			all.Go(func() {
				if f := examine(); !strings.Contains(f.Text, "its disk hangs") {
					t.Errorf("%+v", f)
				}
			})
		}
		ended := make(chan struct{})
		go func() { all.Wait(); close(ended) }()
		passed := time.Duration(0)
		agenttest.Await(t, func() bool {
			if passed < time.Minute { // much later, a clean-up of the pool begins
				r.FakeClock.Advance(time.Second)
				passed += time.Second
			}
			select {
			case <-ended:
				return true
			default:
				return false
			}
		})
	}
	if n := h.Calls(); n != 1 {
		t.Errorf("the pool was listed %d times at once", n)
	}
	h.Resume()
	agenttest.Await(t, func() bool { return examine() == api.Finding{} })
}

// Pools on one filesystem exceed the policy of one of them together, although none exceeds it alone.
func TestPoolsOnOneFilesystem(t *testing.T) {
	shared, own := scratch.Mount(t, "xfs", 1<<30), scratch.Mount(t, "xfs", 1<<30)
	config := func(name, disk string, overcommit float64) pool.Config {
		return pool.Config{Name: name, Backend: loop.Name, Path: filepath.Join(disk, name), Overcommit: overcommit}
	}
	h := agenttest.New(t, func(c *agent.Config) {
		c.Backends = backends.NewRegistry(loop.New(&run.System{}))
		c.Pools = []pool.Config{config("fast", shared, 1.5), config("slow", shared, 0), config("apart", own, 1.5)}
	})
	found := func(name string) (level, text string) {
		t.Helper()
		p, ok := h.Pools.ByName(name)
		if !ok {
			t.Fatalf("no pool %s", name)
		}
		rep := &doctor.Report{}
		h.CheckPool(t.Context(), rep, p, nil, false)
		for _, f := range rep.List {
			if strings.Contains(f.Text, "one filesystem") {
				return f.Level, f.Text
			}
		}
		return "", ""
	}
	make := func(name, pool string) {
		t.Helper()
		require.NoError(t, h.Create(t.Context(), name, map[string]string{"pool": pool, "size": "800MiB"}))
	}
	make("db", "fast")
	if level, text := found("fast"); level != api.LevelOK || !strings.Contains(text, "with slow: they share its free space") {
		t.Errorf("with room: %s %s", level, text)
	}
	make("web", "slow")
	if level, text := found("fast"); level != api.LevelWarning || !strings.Contains(text, "1.56GiB large together") {
		t.Errorf("without room: %s %s", level, text)
	}
	if level, text := found("slow"); level != api.LevelOK {
		t.Errorf("a pool without a policy: %s %s", level, text)
	}
	if level, text := found("apart"); level != "" {
		t.Errorf("a pool with a filesystem of its own: %s %s", level, text)
	}
}

// countedProfiles counts the requests for the profiles.
type countedProfiles struct {
	api.Service
	requests atomic.Int64
}

func (c *countedProfiles) Profiles(ctx context.Context) ([]api.ListedProfile, error) {
	c.requests.Add(1)
	return c.Service.Profiles(ctx)
}

// An examination that has found out that control does not answer sends it no other request: each one would wait until
// it times out.
func TestSilentControlIsNotAskedAgain(t *testing.T) {
	var control *countedProfiles
	r := agenttest.New(t, func(cfg *agent.Config) {
		control = &countedProfiles{Service: cfg.Control}
		cfg.Control = control
	})
	agenttest.Await(t, func() bool { return !r.Jobs.IsRunning("keys") })
	ask := func() int64 {
		before := control.requests.Load()
		_, err := r.Doctor(t.Context())
		require.NoError(t, err)
		return control.requests.Load() - before
	}
	if n := ask(); n == 0 {
		t.Error("a control that answers was not asked for its profiles")
	}
	r.Link.Cut()
	if n := ask(); n != 0 {
		t.Errorf("a silent control was asked for its profiles %d times", n)
	}
	r.Link.Mend()
}

func TestMain(m *testing.M) { agenttest.Main(m) }
