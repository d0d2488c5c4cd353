package pooladmin_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/google/uuid"

	"github.com/droverhq/drover/agent"
	"github.com/droverhq/drover/agent/agenttest"
	"github.com/droverhq/drover/agent/host"
	"github.com/droverhq/drover/agent/pool"
	"github.com/droverhq/drover/backends"
	"github.com/droverhq/drover/backends/dir"
	"github.com/droverhq/drover/control/api"
	"github.com/droverhq/drover/dataset"
	"github.com/droverhq/drover/internal/scratch"
	"github.com/droverhq/drover/test/assert"
	"github.com/droverhq/drover/test/require"
)

func newPool(r *agenttest.Host, name string) string {
	r.T.Helper()
	path := filepath.Join(r.Root, name)
	_, err := r.CreatePool(r.T.Context(), api.NewPool{Name: name, Backend: "dir", Path: path})
	require.NoError(r.T, err)
	return path
}

// An offline pool is not removed, because nobody can look into it. It can be forgotten once only condemned datasets
// are recorded there. The other pools continue, and the forgotten pool can be adopted again.
func TestOfflinePoolIsForgotten(t *testing.T) {
	r := agenttest.New(t, everyKind)
	ctx := t.Context()
	disk := scratch.Mount(t, "xfs", 2<<30)
	path := filepath.Join(disk, "pool")
	_, err := r.CreatePool(ctx, api.NewPool{Name: "fast", Backend: "loop", Path: path})
	require.NoError(t, err)
	require.NoError(t, r.Create(ctx, "db", map[string]string{"pool": "fast"}))
	d, _ := r.Cache.Volume("db")
	require.NoError(t, os.Rename(path, path+".away"))
	r.Restart()
	keepsPool(r, "fast", false, dataset.ErrOffline, "drover pool rm fast --forget --dry-run")
	keepsPool(r, "fast", true, dataset.ErrConflict, "pool fast holds volume db: drover volume rm db --dry-run")
	require.NoError(t, r.Remove(ctx, "db"))
	keepsPool(r, "fast", true, dataset.ErrConflict, "pool fast holds volume db (in the trash, "+d.ID.String()[:8]+"): drover trash purge "+d.ID.String()[:8])
	_, err = r.Link.Submit(ctx, api.Request{ID: uuid.New(), Kind: dataset.OpPurge, Volume: d.ID.String()})
	require.NoError(t, err)
	out, err := r.RemovePool(ctx, "fast", api.PoolRemoval{Forget: true})
	if err != nil || len(out.Notes) != 1 || !strings.Contains(out.Notes[0], "drover pool adopt "+path+" adopts it") {
		t.Fatalf("%+v, %v", out, err)
	}
	unlisted(r, "fast")
	if known, _, err := r.Recorded(ctx); err != nil || len(known) > 0 {
		t.Errorf("on record is %v, %v", known, err)
	}
	require.NoError(t, os.Rename(path+".away", path))
	pool, back, err := r.AdoptPool(ctx, path, false)
	if err != nil || pool.ID != d.Pool || len(back) != 1 {
		t.Errorf("taken back: %+v, %+v, %v", pool, back, err)
	}
}

// A healthy pool is forgotten with all unrecorded data in it: the data stays in its place.
func TestForgottenPoolKeepsItsContent(t *testing.T) {
	r := agenttest.New(t)
	ctx := t.Context()
	path := newPool(r, "plain")
	p, _ := r.Pools.ByName("plain")
	lost := dataset.Dataset{ID: uuid.New(), Volume: "lost", Pool: p.ID}
	_, err := p.Storage.Create(ctx, lost)
	require.NoError(t, err)
	require.NoError(t, p.Storage.Commit(ctx, lost.ID))
	keepsPool(r, "plain", false, dataset.ErrConflict, "pool plain holds volume lost ("+lost.ID.String()[:8]+", not recorded here): drover doctor")
	_, err = r.RemovePool(ctx, "plain", api.PoolRemoval{Forget: true})
	require.NoError(t, err)
	for name := range r.Pools.PoolLocks.Sockets {
		if strings.Contains(name, p.ID.String()) {
			t.Errorf("another drover cannot have it: %s is held", name)
		}
	}
	unlisted(r, "plain")
	_, err = os.Stat(filepath.Join(path, "datasets", lost.ID.String()))
	assert.NoError(t, err)
	preview, would, err := r.AdoptPool(ctx, path, true)
	require.NoError(t, err)
	unlisted(r, "plain") // a dry run
	pool, back, err := r.AdoptPool(ctx, path, false)
	if err != nil || pool.ID != p.ID || len(back) != 1 {
		t.Errorf("taken back: %+v, %+v, %v", pool, back, err)
	}
	if preview.ID != pool.ID || preview.Name != pool.Name || preview.Path != pool.Path || !slices.Equal(would, back) {
		t.Errorf("the dry run says %+v, %+v, but the adoption %+v, %+v", preview, would, pool, back)
	}
	if list, err := r.RebuildStore(ctx, api.RebuildStore{DryRun: true}); err != nil || len(list) != 1 || list[0].Action != "known" {
		t.Errorf("dry run of a rebuild: %+v, %v", list, err)
	}
}

// A pool is kept by foreign data and by a trial of drover backend verify. It is also kept by drover.yaml, and the
// default pool is kept if there is no other. The error about a wrong name lists the pools.
func TestPoolIsNotRemovedWhileNeeded(t *testing.T) {
	r := agenttest.New(t)
	path := newPool(r, "plain")
	for _, name := range []string{"a", "b", "c", "d", "e"} {
		require.NoError(t, os.WriteFile(filepath.Join(path, name), nil, 0o600))
	}
	keepsPool(r, "plain", false, dataset.ErrConflict, path+"/a, which is not drover's: remove it yourself; "+path+"/b", " more")
	keepsPool(r, "default", false, dataset.ErrConflict, "is in drover.yaml")
	keepsPool(r, "default", true, dataset.ErrConflict, "is in drover.yaml")
	plain, _ := r.Pools.ByName("plain")
	keepsPool(r, plain.ID.String(), false, dataset.ErrNotFound, "that is pool plain of this node: use its name")
	keepsPool(r, "plian", false, dataset.ErrNotFound, `no pool "plian" on this node (available: default, plain; did you mean plain?)`)
	assert.NoErrorf(t, r.Create(t.Context(), "db", map[string]string{"pool": "plain"}), "it serves no more")
	r.Restart()
	if p, there := r.Pools.ByName("plain"); !there || p.CheckServed() != nil {
		t.Error("it is not there any more")
	}
}

func TestDefaultPoolStaysWhileItIsTheOnlyOne(t *testing.T) {
	r := agenttest.New(t, everyKind, func(c *agent.Config) { c.Root, c.Pools = scratch.Mount(t, "ext4", 4<<30), nil })
	ctx := t.Context()
	image := filepath.Join(r.Root, "pools", "default.img")
	_, err := os.Stat(image)
	require.NoError(t, err)
	keepsPool(r, "default", false, dataset.ErrConflict, "is the only one of this node", "drover pool create")
	keepsPool(r, "default", true, dataset.ErrConflict, "is the only one of this node")
	newPool(r, "plain")
	_, err = r.RemovePool(ctx, "default", api.PoolRemoval{})
	require.NoError(t, err)
	unlisted(r, "default")
	if _, err := os.Stat(image); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("its image: %v", err)
	}
	out, err := r.RemovePool(ctx, "plain", api.PoolRemoval{})
	if err != nil || len(out.Notes) != 1 || !strings.Contains(out.Notes[0], "creates the pool default at its "+
		"next start") {
		t.Fatalf("%+v, %v", out, err)
	}
	r.Restart()
	if _, there := r.Pools.ByName("default"); !there {
		t.Error("a node without any pool has not the default one")
	}
}

// A create in a pool that is being removed either is faster, or gets a clear error.
func TestPoolIsRemovedDuringCreates(t *testing.T) {
	r := agenttest.New(t)
	ctx := t.Context()
	won := map[bool]int{}
	for try := range 20 {
		name := fmt.Sprint("p", try)
		newPool(r, name)
		errs := make([]error, 6)
		var all sync.WaitGroup
		begins := make(chan struct{})
		if try%2 == 0 {
			close(begins)
		}
		for i := range errs[1:] {
			all.Go(func() { <-begins; errs[i+1] = r.Create(ctx, fmt.Sprint(name, "-", i), map[string]string{"pool": name}) })
		}
		all.Go(func() { _, errs[0] = r.RemovePool(ctx, name, api.PoolRemoval{}) })
		if try%2 == 1 {
			p, _ := r.Pools.ByName(name)
			agenttest.Await(t, func() bool { now := r.Pools.ByID(p.ID); return now.Record.Leaving != pool.NotLeaving || now.Gone })
			close(begins)
		}
		all.Wait()
		if errs[0] != nil && !errors.Is(errs[0], dataset.ErrConflict) && !errors.Is(errs[0], dataset.ErrPending) {
			t.Fatal(errs[0])
		}
		won[errs[0] == nil]++
		for i, err := range errs[1:] {
			_, there := r.Cache.Volume(fmt.Sprint(name, "-", i))
			if there != (err == nil) || there && errs[0] == nil || err != nil && (dataset.KindOf(err) == dataset.ErrInternal || strings.Contains(err.Error(), "no such file")) {
				t.Errorf("pool removed: %v; volume there %t: %v", errs[0], there, err)
			}
		}
		if p, there := r.Pools.ByName(name); there != (errs[0] != nil) || there && p.CheckServed() != nil {
			t.Errorf("pool there %t: %v", there, errs[0])
		}
	}
	if won[true] == 0 || won[false] == 0 {
		t.Errorf("removed: %v", won)
	}
}

// Work in progress may use a pool that is to be removed: the removal waits for it, and sees its results.
func TestPoolRemovalWaitsForWork(t *testing.T) {
	r := agenttest.New(t)
	ctx := t.Context()
	newPool(r, "plain")
	p, _ := r.Pools.ByName("plain")
	d := dataset.Dataset{ID: uuid.New(), Volume: "db", Pool: p.ID}
	unlock, err := r.Locks.Lock(ctx, d.ID, "create of volume db")
	require.NoError(t, err)
	gone := make(chan error, 1)
	go func() { _, err := r.RemovePool(ctx, "plain", api.PoolRemoval{}); gone <- err }()
	agenttest.Await(t, func() bool { return r.Locks.Users(d.ID) == 2 })
	if _, err := r.Pools.Get(p.ID); err == nil || !strings.Contains(err.Error(), "pool plain is being removed") {
		t.Errorf("a later request gets the pool: %v", err)
	}
	_, err = p.Storage.Create(ctx, d)
	require.NoError(t, err)
	unlock()
	if err := <-gone; !errors.Is(err, dataset.ErrConflict) || !strings.Contains(err.Error(), "pool plain holds volume db (incoming)") {
		t.Errorf("removed: %v", err)
	}
	_, err = r.Pools.Get(p.ID)
	assert.NoError(t, err)
}

// The removal does not wait for work in other pools, and for no work once control has removed the pool from its
// records: a pool that may be partly cleared cannot stay.
func TestPoolRemovalWaitsForNoOtherWork(t *testing.T) {
	r := agenttest.New(t)
	ctx := t.Context()
	newPool(r, "plain")
	d, imported, unknown := r.NewVolume("db"), uuid.New(), uuid.New()
	runs := make(chan struct{})
	imports := dataset.Operation{ID: uuid.New(), DatasetID: imported, DatasetRecord: &dataset.Dataset{ID: imported, Pool: d.Pool}}
	go func() {
		_ = r.Runner.Run(ctx, &host.Job{}, imports, func(ctx context.Context, _ *dataset.Operation) error {
			close(runs)
			<-ctx.Done()
			return ctx.Err()
		})
	}()
	<-runs
	hold := func(id uuid.UUID) {
		unlock, err := r.Locks.Lock(ctx, id, "import of volume other")
		require.NoError(t, err)
		t.Cleanup(unlock)
	}
	hold(d.ID)
	hold(imported)
	_, err := r.RemovePool(ctx, "plain", api.PoolRemoval{})
	assert.NoError(t, err)
	hold(unknown)
	newPool(r, "plain")
	p, _ := r.Pools.ByName("plain")
	require.NoError(t, r.Pools.UpdateRecord(ctx, p.ID, func(rec *pool.Record) { rec.Leaving, rec.Unrecorded = pool.LeavingRemoved, true }))
	_, err = r.RemovePool(ctx, "plain", api.PoolRemoval{})
	assert.NoError(t, err)
}

// A pool in which something is recorded is never out of service, whatever else is done.
func TestPoolInUseIsRefusedWhileItServes(t *testing.T) {
	r := agenttest.New(t)
	ctx := t.Context()
	newPool(r, "plain")
	require.NoError(t, r.Create(ctx, "db", map[string]string{"pool": "plain"}))
	unlock, err := r.Locks.Lock(ctx, uuid.New(), "create of volume other")
	require.NoError(t, err)
	defer unlock()
	keepsPool(r, "plain", true, dataset.ErrConflict, "pool plain holds volume db: ")
}

// fusedClear is a pool that is cleared until the process crashes.
type fusedClear struct {
	backends.Pool
	f *agenttest.Fuse
}

func (p fusedClear) Clear(ctx context.Context) (left string, err error) {
	return left, p.f.Act("clear", func() error { left, err = p.Pool.(backends.Clearer).Clear(ctx); return err })
}

type fusedClears struct {
	backends.Kind
	f *agenttest.Fuse
}

func (k fusedClears) Open(ctx context.Context, cfg backends.Config) (backends.Pool, error) {
	p, err := k.Kind.Open(ctx, cfg)
	if err != nil {
		return nil, err
	}
	return fusedClear{p, k.f}, nil
}

// fusedRegister is the connection to control of an agent that crashes.
type fusedRegister struct {
	agenttest.FusedControl
}

func (c fusedRegister) Register(ctx context.Context, reg api.Registration) error {
	return agenttest.Unavailable(c.Host.Fuse.Act("register", func() error { return c.Service.Register(ctx, reg) }))
}

// The agent crashes before and after every act of a removal. After its restart it has the pool as before, in which a
// volume can be created, or no pool. In that case its place is empty, or unchanged if the pool was forgotten.
func TestPoolRemovalCrashesAtEveryAct(t *testing.T) {
	for _, forget := range []bool{false, true} {
		for _, late := range []bool{false, true} {
			for n := 0; ; n++ {
				h := &agenttest.Host{Fuse: &agenttest.Fuse{ActsLeft: -1}}
				r := agenttest.New(t, func(c *agent.Config) {
					c.Backends = backends.NewRegistry(fusedClears{dir.Backend{}, h.Fuse})
					c.State, c.Control = agenttest.FusedStore{Store: c.State, Host: h}, fusedRegister{agenttest.FusedControl{Service: c.Control, Host: h}}
				})
				path := newPool(r, "plain")
				agenttest.Await(t, func() bool { return len(r.Pools.Generations()) == 2 && !r.Pools.ByID(r.Pools.Order[1]).Raising })
				h.Fuse.Set(n, late, nil)
				_, err := r.RemovePool(t.Context(), "plain", api.PoolRemoval{Forget: forget})
				cut := h.Fuse.Blown()
				_ = r.Agent.Close() // the agent is dead
				at := fmt.Sprintf("forget %t, late %t, act %d of %v: %v", forget, late, n, h.Fuse.Seen(), err)
				h.Fuse.Mend()
				r.StartWith(r.Config)
				agenttest.Await(t, func() bool {
					p, there := r.Pools.ByName("plain")
					if there && p.Record.Leaving != pool.NotLeaving {
						r.DoHeartbeatWork(t.Context())
					}
					return !there || p.CheckServed() == nil
				})
				_, there := r.Pools.ByName("plain")
				_, missing := os.Stat(filepath.Join(path, "pool.json"))
				if there && r.Create(t.Context(), "db", map[string]string{"pool": "plain"}) != nil || there == (missing != nil) && !forget || err == nil && there {
					t.Errorf("%s: there %t, its marker: %v", at, there, missing)
				}
				if !there {
					unlisted(r, "plain")
				}
				if !cut {
					t.Log(at)
					break
				}
			}
		}
	}
}
