package pool_test

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/google/uuid"
	"github.com/sirupsen/logrus"
	logtest "github.com/sirupsen/logrus/hooks/test"
	"golang.org/x/sys/unix"

	"github.com/droverhq/drover/agent"
	"github.com/droverhq/drover/agent/agenttest"
	"github.com/droverhq/drover/agent/doctor"
	"github.com/droverhq/drover/agent/pool"
	"github.com/droverhq/drover/backends"
	"github.com/droverhq/drover/backends/dir"
	"github.com/droverhq/drover/backends/loop"
	"github.com/droverhq/drover/control/api"
	"github.com/droverhq/drover/dataset"
	"github.com/droverhq/drover/internal/linux/mount"
	"github.com/droverhq/drover/internal/run"
	"github.com/droverhq/drover/internal/scratch"
	"github.com/droverhq/drover/test/assert"
	"github.com/droverhq/drover/test/require"
)

// leave fills a disk until only a number of bytes is free.
func leave(t *testing.T, dir string, free int64) {
	t.Helper()
	path := filepath.Join(dir, "ballast")
	require.NoError(t, os.RemoveAll(path))
	var st unix.Statfs_t
	require.NoError(t, unix.Statfs(dir, &st))
	f, err := os.Create(path)
	require.NoError(t, err)
	defer f.Close()
	require.NoError(t, unix.Fallocate(int(f.Fd()), 0, 0, int64(st.Bavail)*st.Bsize-free))
}

// When the disk of the root fills up, doctor reports that, before creates are refused and while they are. The refusal
// says the same. The trash is named if it is on that disk, and not if emptying it would free nothing there.
func TestDoctorReportsFullRootDisk(t *testing.T) {
	for name, beside := range map[string]bool{"a pool on the same disk": true, "a pool elsewhere": false} {
		t.Run(name, func(t *testing.T) {
			disk := scratch.Mount(t, "ext4", 1<<30)
			r := agenttest.New(t, func(c *agent.Config) {
				c.Root = disk
				if beside {
					c.Pools[0].Path = filepath.Join(disk, "pool")
				}
			})
			r.NewVolume("waste")
			require.NoError(t, r.Remove(t.Context(), "waste"))
			if f := r.Finding("root"); f.Level != api.LevelOK || f.Fix != "" {
				t.Errorf("with room: %+v", f)
			}
			advice := func(what, text string) {
				t.Helper()
				if !strings.Contains(text, "df -h "+disk) || strings.Contains(text, "drover trash ls") != beside {
					t.Errorf("%s: the advice is %q", what, text)
				}
			}
			leave(t, disk, 40<<20)
			if f := r.Finding("root"); f.Level != api.LevelWarning {
				t.Errorf("with little room: %+v", f)
			} else {
				advice("with little room", f.Fix)
			}
			leave(t, disk, 1<<20)
			if f := r.Finding("root"); f.Level != api.LevelError || !strings.Contains(f.Text, "creates are refused") {
				t.Errorf("full: %+v", f)
			} else {
				advice("full", f.Fix)
			}
			err := r.Create(t.Context(), "more", nil)
			if !errors.Is(err, dataset.ErrNoSpace) || !strings.Contains(err.Error(), disk+" is nearly full") {
				t.Fatalf("create: %v", err)
			}
			advice("create", err.Error())
		})
	}
}

// weighty is a pool that reports how much its datasets take and how full it is.
type weighty struct {
	backends.Pool
	used   map[uuid.UUID]dataset.Size
	status dataset.PoolStatus
}

func (p *weighty) Info() backends.Info {
	return backends.Info{Capabilities: dataset.Capabilities{OwnFilesystem: true}}
}

func (p *weighty) Used(_ context.Context, id uuid.UUID) (dataset.Size, error) { return p.used[id], nil }

func (p *weighty) Status(context.Context) dataset.PoolStatus { return p.status }

// Each volume named b has a snapshot that uses 5 GiB.
func (p *weighty) Stat(_ context.Context, id uuid.UUID) (e backends.Entry, err error) {
	if p.used[id] == 9*dataset.GiB {
		e.Snapshots = []dataset.Snapshot{{ID: id, Dataset: id, Name: "old"}}
	}
	return e, nil
}

func (p *weighty) UniqueSize(context.Context, uuid.UUID, uuid.UUID) (dataset.Size, error) {
	return 5 * dataset.GiB, nil
}

// weighs replaces the default pool by another one, in an image of a size or in none.
func weighs(r *agenttest.Host, p *weighty, image dataset.Size) {
	r.T.Helper()
	pl, _ := r.Pools.ByName("default")
	r.Pools.Change(pl.ID, func(pl *pool.Pool) { pl.Storage = p })
	// A raise of the pool keeps its own record, so the record is changed too.
	err := r.Pools.UpdateRecord(r.T.Context(), pl.ID, func(rec *pool.Record) { rec.Path, rec.Image = "/disk/pool", image })
	require.NoError(r.T, err)
}

// The problem of a pool with free space is reported without advice to free space: the pool accepts new data, and more
// space would not help.
func TestDoctorOfFailingPoolDoesNotAskForSpace(t *testing.T) {
	const why = "the quotas were none and are now full: restart drover"
	r := agenttest.New(t)
	p, _ := r.Pools.ByName("default")
	st := dataset.PoolStatus{Online: true, Free: 90 * dataset.GiB, Size: 100 * dataset.GiB, Reason: why}
	weighs(r, &weighty{Pool: p.Storage, status: st}, 0)
	if f := r.Finding("pool default"); f.Level != api.LevelError || f.Fix != "" || f.Text != why {
		t.Errorf("%+v", f)
	}
}

// The advice about a full pool says how much emptying the trash would free, and names the largest volumes if that is
// not enough. Doctor and the refusal give the same advice.
func TestRemedyForFullPool(t *testing.T) {
	const size = 100 * dataset.GiB // 2 GiB of it are reserved
	full := dataset.PoolStatus{Online: true, Free: dataset.GiB, Size: size, Reason: "pool default is nearly full"}
	for name, c := range map[string]struct {
		trash, other, image bool
		used                map[string]dataset.Size
		status              dataset.PoolStatus
		want                string
	}{
		"the trash would do": {true, false, true, map[string]dataset.Size{"gone": 30 * dataset.GiB}, full,
			"the trash has 1 volume with 30GiB: drover trash ls"},
		"other pools have trash too": {true, true, true, map[string]dataset.Size{"gone": 30 * dataset.GiB}, full,
			"the trash has 1 volume with 30GiB: drover trash ls"},
		"the trash is too little": {true, false, true, map[string]dataset.Size{"gone": dataset.MiB, "a": dataset.GiB, "b": 9 * dataset.GiB, "c": 0, "d": 2 * dataset.GiB}, full,
			"the trash has 1 volume with 1MiB: drover trash ls; the largest volumes and snapshots are b 9GiB, b@old 5GiB, d 2GiB: drover volume ls and drover snapshot ls show what could be deleted"},
		"no trash, on a disk that others fill": {false, false, false, map[string]dataset.Size{"gone": 3 * dataset.GiB}, full,
			"the largest volumes are gone 3GiB, a 0B, b 0B: drover volume ls and drover snapshot ls show what could be deleted; other files on its disk: df -h /disk/pool"},
		"the image lacks blocks": {true, false, true, nil,
			dataset.PoolStatus{Online: true, Free: 90 * dataset.GiB, Size: size, Reason: "the pool's image is not fully allocated"}, ""},
	} {
		t.Run(name, func(t *testing.T) {
			r := agenttest.New(t)
			pl, _ := r.Pools.ByName("default")
			p := &weighty{Pool: pl.Storage, used: map[uuid.UUID]dataset.Size{}, status: c.status}
			for _, v := range []string{"a", "b", "c", "d", "gone"} {
				d := dataset.Dataset{ID: uuid.New(), Volume: v, State: dataset.StateReady, Pool: pl.ID}
				p.used[d.ID] = c.used[v]
				if v == "gone" && c.trash {
					d.State = dataset.StateTrashed
				}
				r.Cache.Load(api.IndexedDataset{Dataset: d})
			}
			if c.other {
				r.Cache.Load(api.IndexedDataset{Dataset: dataset.Dataset{ID: uuid.New(), State: dataset.StateTrashed, Pool: uuid.New()}})
			}
			var image dataset.Size
			if c.image {
				image = size
			}
			weighs(r, p, image)
			if f := r.Finding("pool default"); f.Level != api.LevelError || f.Fix != c.want {
				t.Errorf("doctor: %+v, want %q", f, c.want)
			}
			err := r.Pools.AddHint(t.Context(), pl.ID, dataset.Errorf(dataset.ErrNoSpace, "full"))
			want := "full"
			if c.want != "" {
				want += " (" + c.want + ")"
			}
			if err.Error() != want {
				t.Errorf("a refusal: %q, want %q", err, want)
			}
		})
	}
}

// warner is backend dir whose pools give the warnings that the test sets.
type warner struct {
	dir.Backend
	mu    sync.Mutex
	lines []string
}

func (w *warner) Open(ctx context.Context, cfg backends.Config) (backends.Pool, error) {
	p, err := w.Backend.Open(ctx, cfg)
	return warnerPool{p, w}, err
}

func (w *warner) say(lines ...string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.lines = lines
}

type warnerPool struct {
	backends.Pool
	w *warner
}

func (p warnerPool) Warnings() []string {
	p.w.mu.Lock()
	defer p.w.mu.Unlock()
	return p.w.lines
}

// The warnings of a pool are reported by doctor, and once in the log.
func TestPoolWarningsAreReportedOnce(t *testing.T) {
	w := &warner{}
	r := agenttest.New(t, func(c *agent.Config) { c.Backends = backends.NewRegistry(w) })
	log := logtest.NewLocal(r.Agent.Log.(*logrus.Logger))
	logged := func() (lines []string) {
		for _, e := range log.AllEntries() {
			if strings.HasPrefix(e.Message, "pool: ") {
				lines = append(lines, e.Level.String()+" "+e.Data["pool"].(string)+" "+e.Message)
			}
		}
		return lines
	}
	found := func() (lines []string) {
		rep := &doctor.Report{}
		p, _ := r.Pools.ByName("default")
		r.CheckPool(t.Context(), rep, p, nil, false)
		for _, f := range rep.List {
			if f.Level == api.LevelWarning && strings.HasPrefix(f.Text, "it lost ") {
				lines = append(lines, f.Text)
			}
		}
		return lines
	}
	for _, c := range []struct{ says, log []string }{
		{nil, nil},
		{[]string{"it lost 1"}, []string{"warning default pool: it lost 1"}},
		{[]string{"it lost 1"}, nil},
		{[]string{"it lost 1", "it lost 2"}, []string{"warning default pool: it lost 2"}},
		{nil, nil},
		{[]string{"it lost 1"}, []string{"warning default pool: it lost 1"}},
	} {
		log.Reset()
		w.say(c.says...)
		for range 2 {
			r.Pools.Status(t.Context())
		}
		if got := logged(); !slices.Equal(got, c.log) {
			t.Errorf("of %q it logs %q, want %q", c.says, got, c.log)
		}
		if got := found(); !slices.Equal(got, c.says) {
			t.Errorf("of %q doctor has %q", c.says, got)
		}
	}
}

// A pool whose data is in memory, in a folder or in an image, is reported as such when it is made and by doctor, also
// after a restart.
func TestPoolInMemoryIsReported(t *testing.T) {
	tmpfs := t.TempDir()
	require.NoError(t, mount.Mount(tmpfs, mount.Spec{Source: "tmpfs", FSType: "tmpfs", Options: []string{"size=2g"}}))
	t.Cleanup(func() {
		assert.NoError(t, mount.Unmount(tmpfs))
	})
	r := agenttest.New(t, func(c *agent.Config) { c.Backends = backends.NewRegistry(dir.Backend{}, loop.New(&run.System{})) })
	const says = "it is on tmpfs: its data is in memory and is lost at a reboot"
	for _, n := range []api.NewPool{
		{Name: "folders", Backend: "dir", Path: filepath.Join(tmpfs, "folders")},
		{Name: "images", Backend: "loop", Path: filepath.Join(tmpfs, "images.img"), Image: "600MiB"},
	} {
		require.NoError(t, os.MkdirAll(filepath.Dir(r.Pools.ImageMount(n.Name)), 0o700))
		made, err := r.CreatePool(t.Context(), n)
		require.NoError(t, err)
		if !strings.HasPrefix(made.Note, says) {
			t.Errorf("%s: %s", n.Name, made.Note)
		}
	}
	r.Restart()
	found, err := r.Doctor(t.Context())
	require.NoError(t, err)
	said := map[string]bool{}
	for _, f := range found {
		if f.Level == api.LevelWarning && f.Text == says {
			said[f.Subject] = true
		}
	}
	if !said["pool folders"] || !said["pool images"] {
		t.Errorf("doctor says it of %v", said)
	}
}

// A policy for overcommit ends when it is removed from drover.yaml. A policy that an operator set stays.
func TestOvercommitFollowsConfig(t *testing.T) {
	const (
		none = 0
		keep = -1 // no operator sets a policy
	)
	type start struct{ configured, set, want float64 }
	for name, starts := range map[string][]start{
		"removed from drover.yaml":             {{1.5, keep, 1.5}, {none, keep, none}, {none, keep, none}},
		"removed after a restart with it":      {{1.5, keep, 1.5}, {1.5, keep, 1.5}, {none, keep, none}},
		"changed in drover.yaml":               {{1.5, keep, 1.5}, {2, keep, 2}, {none, keep, none}},
		"added later, and removed":             {{none, keep, none}, {1.5, keep, 1.5}, {none, keep, none}},
		"set by an operator":                   {{none, 3, 3}, {none, keep, 3}, {none, keep, 3}},
		"set after it was removed":             {{1.5, keep, 1.5}, {none, 3, 3}, {none, keep, 3}},
		"drover.yaml replaces an operator's":   {{none, 3, 3}, {1.5, keep, 1.5}, {none, keep, none}},
		"an operator's limit that was removed": {{none, 3, 3}, {none, none, none}, {none, keep, none}},
	} {
		t.Run(name, func(t *testing.T) {
			r := agenttest.New(t, func(c *agent.Config) {
				c.Pools = []pool.Config{{Name: "default", Backend: "dir", Path: t.TempDir(), Overcommit: starts[0].configured}}
			})
			for i, s := range starts {
				if i > 0 {
					r.Config.Pools[0].Overcommit = s.configured
					r.Restart()
				}
				if s.set != keep {
					_, err := r.SetPool(t.Context(), "default", api.PoolPolicy{Overcommit: s.set})
					require.NoError(t, err)
				}
				if p, ok := r.Pools.ByName("default"); !ok || p.Record.Overcommit != s.want {
					t.Errorf("start %d: overcommit %v, want %v", i+1, p.Record.Overcommit, s.want)
				}
			}
		})
	}
	t.Run("the whole pool is removed from drover.yaml", func(t *testing.T) {
		r := agenttest.New(t, func(c *agent.Config) {
			c.Pools = []pool.Config{{Name: "default", Backend: "dir", Path: t.TempDir(), Overcommit: 1.5}}
		})
		r.Config.Pools = nil
		r.Restart()
		if p, ok := r.Pools.ByName("default"); !ok || p.Record.Overcommit != none {
			t.Errorf("overcommit %v, want none", p.Record.Overcommit)
		}
	})
}

// A policy that an operator set survives the loss of the agent's database, because it is stored in the pool too. A
// policy of drover.yaml is read from that file.
func TestOvercommitSurvivesALostDatabase(t *testing.T) {
	for _, backend := range []string{"dir", loop.Name} {
		t.Run(backend, func(t *testing.T) {
			disk := scratch.Mount(t, "xfs", 512<<20)
			r := agenttest.New(t, func(c *agent.Config) {
				c.Backends = backends.NewRegistry(dir.Backend{}, loop.New(&run.System{}))
				c.Pools = []pool.Config{{Name: "default", Backend: backend, Path: filepath.Join(disk, "default")}}
			})
			ctx := t.Context()
			want := func(when, name string, want float64) {
				t.Helper()
				if p, ok := r.Pools.ByName(name); !ok || p.Record.Overcommit != want || p.Record.OvercommitUnknown {
					t.Errorf("%s: pool %s has the record %+v, want an overcommit of %v", when, name, p.Record, want)
				}
			}
			loseDatabase := func() {
				t.Helper()
				r.Stop()
				require.NoError(t, r.EmptyDatabase())
				r.Start()
			}
			made := api.NewPool{Name: "made", Backend: backend, Path: filepath.Join(disk, "made"), Overcommit: 3}
			_, err := r.CreatePool(ctx, made)
			require.NoError(t, err)
			_, err = r.SetPool(ctx, "default", api.PoolPolicy{Overcommit: 1.5})
			require.NoError(t, err)
			loseDatabase()
			want("after the loss", "default", 1.5)
			want("after the loss", "made", 3)

			_, err = r.SetPool(ctx, "made", api.PoolPolicy{})
			require.NoError(t, err)
			r.Config.Pools[0].Overcommit = 2
			loseDatabase()
			want("after a change and a second loss", "default", 2)
			want("after a change and a second loss", "made", 0)

			// The policy in the pool was lost, and that in the database decides.
			_, err = r.SetPool(ctx, "made", api.PoolPolicy{Overcommit: 4})
			require.NoError(t, err)
			p, _ := r.Pools.ByName("made")
			require.NoError(t, p.Storage.(backends.PolicyKeeper).KeepOvercommit(0))
			r.Restart()
			loseDatabase()
			want("after a repair and a loss", "made", 4)

			// A pool that has moved keeps its policy.
			r.Stop()
			require.NoError(t, os.Rename(filepath.Join(disk, "made"), filepath.Join(disk, "moved")))
			r.Start()
			_, _, err = r.AdoptPool(ctx, filepath.Join(disk, "moved"), false)
			require.NoError(t, err)
			want("after it has moved", "made", 4)
			r.LoseStore(true)
			_, _, err = r.AdoptPool(ctx, filepath.Join(disk, "moved"), false)
			require.NoError(t, err)
			want("after everything but the pool was lost", "moved", 4)
		})
	}
}
