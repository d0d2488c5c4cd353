package pool_test

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/uuid"

	"github.com/droverhq/drover/agent"
	"github.com/droverhq/drover/agent/agenttest"
	"github.com/droverhq/drover/agent/host"
	"github.com/droverhq/drover/agent/pool"
	"github.com/droverhq/drover/backends"
	"github.com/droverhq/drover/control/api"
	"github.com/droverhq/drover/dataset"
)

func TestWithin(t *testing.T) {
	for _, c := range []struct {
		path, dir string
		want      bool
	}{
		{"/pool", "/pool", true}, {"/pool/sub", "/pool", true}, {"/pool", "/pool/sub", false},
		{"/pools", "/pool", false}, {"/pool..x", "/pool", false}, {"/pool/..x", "/pool", true}, {"/", "/pool", false}, {"/x", "/", true},
	} {
		if got := pool.IsWithin(c.path, c.dir); got != c.want {
			t.Errorf("%s within %s: %t", c.path, c.dir, got)
		}
	}
}

// A pool that cannot be opened at a start is offline and keeps its UUID. No other pool is made in its place, its
// volumes are known, and it returns without intervention.
func TestOfflinePoolReturns(t *testing.T) {
	f := &agenttest.FailingBackend{}
	r := agenttest.New(t, func(c *agent.Config) { c.Backends = backends.NewRegistry(f) })
	ctx := t.Context()
	db := r.NewVolume("db")
	id := r.Pool().ID()
	f.Offline.Store(true)
	r.Restart()
	p, ok := r.Pools.ByName("default")
	if !ok || p.Storage != nil || p.ID != id {
		t.Fatalf("%+v", p)
	}
	for what, err := range map[string]error{"mount": r.CallsByName("db")["mount"], "create": r.Create(ctx, "new", nil)} {
		if !errors.Is(err, dataset.ErrOffline) || !strings.Contains(err.Error(), "its disk is gone") {
			t.Errorf("%s: %v", what, err)
		}
	}
	if _, err := r.Get(ctx, "db"); err != nil {
		t.Errorf("get: %v", err)
	}
	if _, err := r.RebuildStore(ctx, api.RebuildStore{}); !errors.Is(err, dataset.ErrOffline) || !strings.Contains(err.Error(), "--skip-offline") {
		t.Errorf("rebuild without the pool: %v", err)
	}
	if list, err := r.RebuildStore(ctx, api.RebuildStore{SkipOffline: true}); err != nil || len(list) != 0 {
		t.Errorf("rebuild of the other pools: %+v, %v", list, err)
	}
	f.Offline.Store(false)
	if !r.Pools.Retry(ctx) || r.Pools.Retry(ctx) {
		t.Error("it did not come back, once")
	}
	if err := r.Generations.AnnounceLate(ctx); err != nil {
		t.Error(err)
	}
	r.MountDataset(db, "id")
	r.WantUses(db, "id")
	if err := r.Unmount(ctx, "db", "id"); err != nil {
		t.Error(err)
	}
}

// Creates, clones and snapshots are refused in a pool without space. The error says how much space there is, and that
// the trash could be emptied.
func TestFullPoolRefusesCreates(t *testing.T) {
	f := &agenttest.FailingBackend{}
	r := agenttest.New(t, func(c *agent.Config) { c.Backends = backends.NewRegistry(f) })
	ctx := t.Context()
	r.NewVolume("db")
	r.NewVolume("waste")
	if err := r.Remove(ctx, "waste"); err != nil {
		t.Fatal(err)
	}
	f.Refuse = backends.CheckRoom("default", dataset.MiB, 100*dataset.GiB)
	for what, err := range map[string]error{
		"create":   r.Create(ctx, "new", nil),
		"clone":    r.Create(ctx, "copy", map[string]string{"from": "db"}),
		"snapshot": r.Perform(ctx, api.Request{Kind: dataset.OpSnapshot, Volume: "db"}),
	} {
		if !errors.Is(err, dataset.ErrNoSpace) {
			t.Errorf("%s: %v", what, err)
			continue
		}
		for _, says := range []string{"pool default", "1MiB free of 100GiB", "the trash has 1 volume", "drover trash ls"} {
			if !strings.Contains(err.Error(), says) {
				t.Errorf("%s: %q does not say %q", what, err, says)
			}
		}
	}
	f.Refuse = dataset.Errorf(dataset.ErrOffline, "its disk is gone")
	if err := r.Create(ctx, "new", nil); !errors.Is(err, dataset.ErrOffline) || strings.Contains(err.Error(), "trash") {
		t.Errorf("create on a pool that went offline: %v", err)
	}
	f.Refuse = nil
	if err := r.Create(ctx, "new", nil); err != nil {
		t.Error(err)
	}
}

// A pool is made only on an empty place, with a name and a path that no other pool has.
func TestCreatePool(t *testing.T) {
	r := agenttest.New(t)
	ctx := t.Context()
	here := filepath.Join(r.Root, "pool")
	full := filepath.Join(r.Root, "full")
	if err := os.MkdirAll(filepath.Join(full, "precious"), 0o755); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		p    api.NewPool
		kind *dataset.Kind
	}{
		{api.NewPool{Name: "Bad Name", Backend: "dir", Path: "/x"}, dataset.ErrInvalid},
		{api.NewPool{Name: "second", Backend: "dir", Path: "relative"}, dataset.ErrInvalid},
		{api.NewPool{Name: "second", Backend: "dir", Path: here + "/../up"}, dataset.ErrInvalid},
		{api.NewPool{Name: "second", Backend: "dir", Path: here}, dataset.ErrInvalid},
		{api.NewPool{Name: "second", Backend: "dir", Path: filepath.Join(here, "inside")}, dataset.ErrInvalid},
		{api.NewPool{Name: "second", Backend: "dir", Path: r.Root}, dataset.ErrInvalid},
		{api.NewPool{Name: "default", Backend: "dir", Path: filepath.Join(r.Root, "other")}, dataset.ErrExists},
		{api.NewPool{Name: "second", Backend: "nosuch", Path: filepath.Join(r.Root, "other")}, dataset.ErrInvalid},
		{api.NewPool{Name: "second", Backend: "dir", Path: full}, dataset.ErrExists},
	} {
		if _, err := r.CreatePool(ctx, c.p); !errors.Is(err, c.kind) {
			t.Errorf("%+v: %v, want %s", c.p, err, c.kind.Code)
		}
	}
	if got := len(r.Pools.All()); got != 1 {
		t.Fatalf("%d pools", got)
	}
	second, err := r.CreatePool(ctx, api.NewPool{Name: "second", Backend: "dir", Path: filepath.Join(r.Root, "second")})
	if err != nil {
		t.Fatal(err)
	}
	for path, says := range map[string]string{
		full: "no pool found (", filepath.Join(r.Root, "missing"): "cannot find a pool: ",
	} {
		_, _, err := r.AdoptPool(ctx, path, false)
		if err == nil || !strings.HasPrefix(err.Error(), "adopt "+path+": "+says) || !strings.Contains(err.Error(), "is its disk mounted?") || len(err.Error()) > 200+2*len(path) {
			t.Errorf("adopt: %v", err)
		}
	}
	known, err := r.Link.Pools(ctx)
	// Before any heartbeat.
	if err != nil || len(known) != 2 || known[1].Name != "second" || known[1].Status == nil || known[1].Status.Size == 0 {
		t.Errorf("control knows %+v, %v", known, err)
	}
	if err := r.Create(ctx, "there", map[string]string{"pool": "second"}); err != nil {
		t.Error(err)
	}
	r.Restart()
	if p, ok := r.Pools.ByName("second"); !ok || p.ID != second.ID || p.Storage == nil {
		t.Errorf("after a restart: %+v", p)
	}
}

// A start that was interrupted after it made a pool and before it recorded the pool finds that pool. A copy of a pool
// under another name is refused.
func TestPoolMadeButNotRecorded(t *testing.T) {
	r := agenttest.New(t)
	db := r.NewVolume("db")
	id := r.Pool().ID()
	if err := r.DB.Put(t.Context(), map[string]any{"pools/default": nil}); err != nil {
		t.Fatal(err)
	}
	r.Restart()
	if r.Pool().ID() != id {
		t.Errorf("pool %s, want %s", r.Pool().ID(), id)
	}
	r.MountDataset(db, "id")
	if err := r.Unmount(t.Context(), "db", "id"); err != nil {
		t.Error(err)
	}

	copied := filepath.Join(r.Root, "copy")
	agenttest.Await(t, func() bool { // the marker may be written meanwhile
		return errors.Join(os.RemoveAll(copied), os.CopyFS(copied, os.DirFS(filepath.Join(r.Root, "pool")))) == nil
	})
	_, err := r.Pools.Make(t.Context(), "copy", pool.Record{Backend: "dir", Path: copied})
	if !errors.Is(err, dataset.ErrExists) || !strings.Contains(err.Error(), "pool default") {
		t.Errorf("a copy of the pool: %v", err)
	}
	if got := r.Pools.All(); len(got) != 1 || got[0].Record.Path != filepath.Join(r.Root, "pool") || got[0].ID == uuid.Nil {
		t.Errorf("pools: %+v", got)
	}
}

// A new pool in drover.yaml that cannot be made is offline with the reason. The other pools serve, nothing is made in
// its place, and a start after the repair makes it.
func TestNewPoolThatCannotBeCreatedIsOffline(t *testing.T) {
	r := agenttest.New(t)
	ctx := t.Context()
	db := r.NewVolume("db")
	full := filepath.Join(r.Root, "full")
	if err := os.MkdirAll(filepath.Join(full, "precious"), 0o755); err != nil {
		t.Fatal(err)
	}
	cfg := r.Config
	cfg.Pools = append(cfg.Pools, pool.Config{Name: "new", Backend: "dir", Path: full}, pool.Config{Name: "odd", Backend: "zfs", Path: "/odd"})
	r.Stop()
	r.StartWith(cfg)
	r.MountDataset(db, "id")
	if err := r.Unmount(ctx, "db", "id"); err != nil {
		t.Error(err)
	}
	r.Reporter.ReportAll(ctx)
	list, err := r.Control.Pools(ctx)
	if err != nil || len(list) != 3 {
		t.Fatalf("pools %+v, %v", list, err)
	}
	for i, name := range []string{"new", "odd"} {
		if p := list[i+1]; p.Name != name || p.NodeName != "host-a" || p.ID != uuid.Nil || p.Status == nil || p.Status.Online || p.Status.Reason == "" {
			t.Errorf("%s is shown as %+v, %+v", name, p, p.Status)
		}
	}
	found, err := r.Doctor(ctx)
	if err != nil {
		t.Fatal(err)
	}
	said := 0
	for _, f := range found {
		if f.Level == host.Error && (f.Subject == "pool new" || f.Subject == "pool odd") && strings.Contains(f.Text, "is offline") {
			said++
		}
	}
	if said != 2 {
		t.Errorf("doctor says %+v", found)
	}
	if _, err := r.CreatePool(ctx, api.NewPool{Name: "new", Backend: "dir", Path: filepath.Join(r.Root, "other")}); !errors.Is(err, dataset.ErrExists) {
		t.Errorf("another pool of that name: %v", err)
	}
	if err := os.RemoveAll(full); err != nil {
		t.Fatal(err)
	}
	cfg.Pools = cfg.Pools[:2]
	r.Stop()
	r.StartWith(cfg)
	if p, ok := r.Pools.ByName("new"); !ok || p.Storage == nil {
		t.Errorf("after it was mended: %+v", p)
	}
	r.Reporter.ReportAll(ctx)
	if list, err := r.Control.Pools(ctx); err != nil || len(list) != 2 {
		t.Errorf("pools %+v, %v", list, err)
	}
}

// If the only pool cannot be made, no default pool is made: a default pool would take half of a disk that nobody
// named.
func TestNoDefaultPoolBesideFailedPool(t *testing.T) {
	f := &agenttest.FailingBackend{}
	f.Offline.Store(true)
	r := agenttest.New(t, func(c *agent.Config) { c.Backends = backends.NewRegistry(f) })
	if got := r.Pools.All(); len(got) != 0 {
		t.Errorf("pools %+v", got)
	}
	if err := r.Create(t.Context(), "db", nil); err == nil {
		t.Error("a volume was made nowhere")
	} else {
		t.Log(err)
	}
}
