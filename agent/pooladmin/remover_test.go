package pooladmin_test

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/uuid"

	"github.com/droverhq/drover/agent"
	"github.com/droverhq/drover/agent/agenttest"
	"github.com/droverhq/drover/agent/pool"
	"github.com/droverhq/drover/backends"
	"github.com/droverhq/drover/backends/btrfs"
	"github.com/droverhq/drover/backends/dir"
	"github.com/droverhq/drover/backends/loop"
	"github.com/droverhq/drover/backends/trialdir"
	"github.com/droverhq/drover/control/api"
	"github.com/droverhq/drover/dataset"
	"github.com/droverhq/drover/internal/run"
	"github.com/droverhq/drover/internal/scratch"
	"github.com/droverhq/drover/test/assert"
	"github.com/droverhq/drover/test/require"
)

// everyKind registers all backends that run on this machine with a rig.
func everyKind(c *agent.Config) {
	c.Backends = backends.NewRegistry(dir.Backend{}, loop.New(&run.System{}), btrfs.New())
}

// unlisted fails if the agent, control or doctor shows a pool, before or after a restart.
func unlisted(r *agenttest.Host, name string) {
	r.T.Helper()
	for range 2 {
		if _, there := r.Pools.ByName(name); there {
			r.T.Errorf("the agent has pool %s", name)
		}
		list, err := r.Link.Pools(r.T.Context())
		for _, p := range list {
			if p.Name == name {
				r.T.Errorf("control has %+v", p)
			}
		}
		found, dErr := r.Doctor(r.T.Context())
		for _, f := range found {
			if f.Subject == "pool "+name {
				r.T.Errorf("doctor has %+v", f)
			}
		}
		assert.NoError(r.T, errors.Join(err, dErr))
		r.Restart()
	}
}

// keepsPool fails unless the removal of a pool and its dry run return the same error, of the given kind and with the
// given texts, and the pool stays.
func keepsPool(r *agenttest.Host, name string, forget bool, kind *dataset.Kind, texts ...string) {
	r.T.Helper()
	_, dry := r.RemovePool(r.T.Context(), name, api.PoolRemoval{Forget: forget, DryRun: true})
	_, err := r.RemovePool(r.T.Context(), name, api.PoolRemoval{Forget: forget})
	if dry == nil || err == nil || dry.Error() != err.Error() {
		r.T.Errorf("rm of pool %s: the dry run says %v, the removal %v", name, dry, err)
	}
	if !errors.Is(err, kind) || strings.Contains(err.Error(), "\n") {
		r.T.Fatalf("rm of pool %s: %v, want %s", name, err, kind.Code)
	}
	for _, text := range texts {
		if !strings.Contains(err.Error(), text) {
			r.T.Errorf("rm of pool %s: %q, want %q in it", name, err, text)
		}
	}
}

// An empty pool is removed with everything that its creation made, and the same command makes another pool in its
// place, under its name.
func TestEmptyPoolIsRemoved(t *testing.T) {
	r := agenttest.New(t, everyKind)
	ctx := t.Context()
	require.NoError(t, os.MkdirAll(filepath.Join(r.Root, "pools"), 0o700))
	xfs, subvol, plain := scratch.Mount(t, "xfs", 2<<30), scratch.Mount(t, "btrfs", 2<<30), t.TempDir()
	given := filepath.Join(plain, "given")
	require.NoError(t, os.Mkdir(given, 0o755))
	for what, n := range map[string]api.NewPool{
		"loop":          {Backend: "loop", Path: filepath.Join(xfs, "new")},
		"loop-itself":   {Backend: "loop", Path: scratch.Mount(t, "xfs", 2<<30)},
		"loop-on-btrfs": {Backend: "loop", Path: filepath.Join(subvol, "loop")},
		"loop-image":    {Backend: "loop", Path: filepath.Join(plain, "pool.img"), Image: "600MiB"},
		"loop-device":   {Backend: "loop", Devices: []string{scratch.Disk(t, 1<<30)}},
		"dir":           {Backend: "dir", Path: filepath.Join(plain, "new")},
		"dir-given":     {Backend: "dir", Path: given},
		"dir-device":    {Backend: "dir", Devices: []string{scratch.Disk(t, 1<<30)}},
		"btrfs":         {Backend: "btrfs", Path: filepath.Join(subvol, "pool")},
		"btrfs-device":  {Backend: "btrfs", Devices: []string{scratch.Disk(t, 1<<30), scratch.Disk(t, 1<<30)}},
	} {
		t.Run(what, func(t *testing.T) {
			n.Name = what
			for range 2 {
				_, err := r.CreatePool(ctx, n)
				require.NoError(t, err)
				require.NoError(t, r.Create(ctx, "used", map[string]string{"pool": what}))
				d, _ := r.Cache.Volume("used")
				keepsPool(r, what, false, dataset.ErrConflict, "holds volume used", "drover volume rm")
				keepsPool(r, what, true, dataset.ErrConflict, "volume used", "drover volume rm")
				destroy(r, d)
				if dry, err := r.RemovePool(ctx, what, api.PoolRemoval{DryRun: true}); err != nil || dry.Pool.Name != what {
					t.Fatalf("dry run: %+v, %v", dry, err)
				}
				if _, known := r.Pools.ByName(what); !known {
					t.Fatal("the dry run removed the pool")
				}
				out, err := r.RemovePool(ctx, what, api.PoolRemoval{})
				if err != nil || out.Pool.Name != what {
					t.Fatalf("%+v, %v", out, err)
				}
				if devices := len(n.Devices) > 0; devices != (len(out.Notes) == 1 && strings.Contains(out.Notes[0], "drover pool create NAME --backend "+n.Backend+" --device "+n.Devices[0])) {
					t.Errorf("says %q", out.Notes)
				}
				if len(n.Devices) == 0 {
					left, err := os.ReadDir(n.Path)
					if had := n.Path == given || what == "loop-itself"; len(left) > 0 || had != (err == nil) {
						t.Errorf("left at its place: %v, %v", left, err)
					}
				}
				if _, err := os.Lstat(r.Pools.ImageMount(what)); !errors.Is(err, os.ErrNotExist) {
					t.Errorf("where it was mounted: %v", err)
				}
				unlisted(r, what)
			}
		})
	}
}

// destroy removes a volume and its data.
func destroy(r *agenttest.Host, d dataset.Dataset) {
	r.T.Helper()
	ctx := r.T.Context()
	require.NoError(r.T, r.Remove(ctx, d.Volume))
	_, err := r.Link.Submit(ctx, api.Request{ID: uuid.New(), Kind: dataset.OpPurge, Volume: d.ID.String()})
	require.NoError(r.T, err)
	agenttest.Await(r.T, func() bool { _, there := r.Cache.Dataset(d.ID); return !there })
}

// earlier is the connection to control of an agent. One of its messages can be overtaken by a later one.
type earlier struct {
	api.Service
	before func(api.Registration)
}

func (c *earlier) Register(ctx context.Context, reg api.Registration) error {
	if c.before != nil {
		c.before(reg)
	}
	return c.Service.Register(ctx, reg)
}

// A registration that was sent before a pool was removed, and arrives later, does not record the pool again. The
// caller of the registration gets an answer all the same.
func TestLateRegistrationDoesNotRestoreRemovedPool(t *testing.T) {
	c := &earlier{}
	r := agenttest.New(t, func(cfg *agent.Config) { c.Service, cfg.Control = cfg.Control, c })
	ctx := t.Context()
	newPool(r, "plain")
	r.Agent.Cancel() // so that nobody else registers
	words := 0
	c.before = func(api.Registration) {
		if words++; words == 1 {
			_, err := r.RemovePool(ctx, "plain", api.PoolRemoval{})
			assert.NoError(t, err)
		}
	}
	// The first, three by the removal, and the repeated first.
	if err := r.Registration.Register(ctx); err != nil || words != 5 {
		t.Errorf("registered %d times: %v", words, err)
	}
	c.before = nil
	unlisted(r, "plain")
}

// The error names what keeps a pool, and how to remove it. For volumes in the trash and condemned ones, that is not
// the command that removes a live volume: a live volume may have the same name.
func TestRemovalErrorNamesWhatThePoolHas(t *testing.T) {
	r := agenttest.New(t)
	ctx := t.Context()
	path := newPool(r, "plain")
	p, _ := r.Pools.ByName("plain")
	require.NoError(t, r.Create(ctx, "shop", map[string]string{"pool": "plain"}))
	d, _ := r.Cache.Volume("shop")
	short := d.ID.String()[:8]
	keeps := func(text string) {
		t.Helper()
		keepsPool(r, "plain", false, dataset.ErrConflict, "pool plain holds "+text)
	}
	keeps("volume shop: drover volume rm shop --dry-run")
	for _, with := range []string{" with 1 snapshot: ", " with 2 snapshots: "} {
		require.NoError(t, r.Perform(ctx, api.Request{Kind: dataset.OpSnapshot, Volume: "shop"}))
		keeps("volume shop" + with)
	}
	require.NoError(t, r.Remove(ctx, "shop"))
	require.NoError(t, r.Create(ctx, "shop", nil))
	keeps("volume shop (in the trash, " + short + ") with 2 snapshots: drover trash purge " + short)
	d, _ = r.Cache.Dataset(d.ID)
	d.State = dataset.StatePurging
	r.Cache.Apply(d, 0)
	keeps("the remaining data of volume shop (purged, " + short + ") with 2 snapshots: removed automatically")
	r.Cache.Remove(d.ID)
	r.Cache.SetCopy(d.ID, &api.AssignedCopy{Copy: dataset.Copy{Dataset: d.ID, Pool: p.ID, Kind: dataset.CopySuperseded}})
	keeps("a superseded copy of volume shop with 2 snapshots: drover copy mount " + d.ID.String() + " " + r.NodeName)
	r.Cache.SetCopy(d.ID, nil)
	keeps("volume shop (" + short + ", not recorded here) with 2 snapshots: drover doctor says what it is")
	require.NoError(t, p.Storage.Delete(ctx, d.ID))
	require.NoError(t, os.WriteFile(filepath.Join(path, "stray"), nil, 0o600))
	c, err := trialdir.Make(path, p.ID, dir.Backend{}.Name())
	require.NoError(t, err)
	stray := path + "/stray, which is not drover's: remove it yourself; "
	keeps(stray + c.Path + ", of a drover backend verify that is running: try again after it ends")
	require.NoError(t, c.Close())
	keeps(stray + c.Path + ", of drover backend verify: drover backend verify ")
}

// I3: while another node says that the store is older than what that node knows, the store may lack the record of any
// dataset. So nothing is destroyed because it has no record, although this node itself sees no difference.
func TestI3CollectKeepsDataIfPeerRejectsStore(t *testing.T) {
	r := agenttest.New(t)
	ctx := t.Context()
	d := r.NewIncoming()
	r.Link.ChangeSync(func(s *api.Sync) { s.Halted = "node host-b says that it is older" })
	for _, dryRun := range []bool{true, false} {
		_, err := r.Collect(ctx, d.ID, dryRun)
		if !errors.Is(err, dataset.ErrConflict) || !strings.Contains(err.Error(), "node host-b says that it is older") {
			t.Errorf("dry run %t: %v", dryRun, err)
		}
	}
	if got := r.ListPool("incoming"); len(got) != 1 {
		t.Errorf("in the pool: %v", got)
	}
	r.Link.ChangeSync(nil)
	_, err := r.Collect(ctx, d.ID, false)
	assert.NoError(t, err)
}

// uncommitted moves a ready dataset back to the incoming ones, as after a power cut before the rename is durable.
func uncommitted(r *agenttest.Host, d dataset.Dataset) {
	r.T.Helper()
	pool := filepath.Join(r.Root, "pool")
	if err := os.Rename(filepath.Join(pool, "datasets", d.ID.String()), filepath.Join(pool, "incoming", d.ID.String())); err != nil {
		r.T.Fatal(err)
	}
}

// I3: a node without records finds a pool by its path in drover.yaml. Incoming datasets in it may have been
// acknowledged: they are kept across any number of starts and reported, and return with a rebuild or are removed by
// an operator. Datasets that the node itself leaves incoming from then on were never acknowledged, and are removed.
func TestI3IncomingOfFoundPoolIsKept(t *testing.T) {
	r := agenttest.New(t)
	ctx := t.Context()
	db, other := r.NewVolume("db"), r.NewVolume("other")
	uncommitted(r, db)
	uncommitted(r, other)
	r.LoseStore(true)
	for range 2 {
		if got := r.ListPool("incoming"); len(got) != 2 {
			t.Fatalf("incoming: %v", got)
		}
		if got := r.DatasetFinding(db); !strings.Contains(got, "volume db") || !strings.Contains(got, "is kept") {
			t.Errorf("doctor says %q", got)
		}
		r.Restart()
	}
	cut := r.NewIncoming()
	r.Restart()
	if got := r.ListPool("incoming"); len(got) != 2 || slices.Contains(got, cut.ID.String()) {
		t.Errorf("after a start incoming: %v", got)
	}
	if found, err := r.Collect(ctx, other.ID, true); err != nil || found.Dataset != other.ID || found.Pool == "" {
		t.Fatalf("dry run: %+v, %v", found, err)
	}
	if _, err := r.Pool().Stat(ctx, other.ID); err != nil {
		t.Fatalf("the dry run destroyed it: %v", err)
	}
	_, err := r.Collect(ctx, other.ID, false)
	assert.NoError(t, err)
	back, err := r.RebuildStore(ctx, api.RebuildStore{})
	if err != nil || len(back) != 1 || back[0].Dataset != db.ID || back[0].Action != "trashed" {
		t.Errorf("rebuilt: %+v, %v", back, err)
	}
	r.Restart()
	if got := r.ListPool("datasets"); len(got) != 1 || got[0] != db.ID.String() || len(r.ListPool("incoming")) != 0 {
		t.Errorf("in the pool: %v, incoming %v", got, r.ListPool("incoming"))
	}
	if p, _ := r.Pools.ByName("default"); p.Record.Unexamined || len(p.Record.Doubtful) != 0 {
		t.Errorf("still doubtful: %+v", p.Record)
	}
}

// An incoming dataset whose record cannot be read does not return with a rebuild, and is not destroyed after it
// either.
func TestI3UnreadableIncomingIsKeptByRebuild(t *testing.T) {
	r := agenttest.New(t)
	db := r.NewIncoming()
	require.NoError(t, os.WriteFile(filepath.Join(r.Root, "pool/incoming", db.ID.String(), "record.json"), []byte("no record"), 0o600))
	r.LoseStore(false)
	for range 2 {
		_, err := r.RebuildStore(t.Context(), api.RebuildStore{})
		require.NoError(t, err)
		r.Restart()
		if got := r.ListPool("incoming"); len(got) != 1 {
			t.Fatalf("incoming: %v", got)
		}
		if got := r.DatasetFinding(db); !strings.Contains(got, "--gc "+db.ID.String()) {
			t.Errorf("doctor says %q", got)
		}
	}
}

// A crash before an adoption has brought its datasets back loses none of them.
func TestI3IncomingOfAdoptedPoolSurvivesCrash(t *testing.T) {
	r := agenttest.New(t)
	rec := pool.Record{ID: uuid.New(), Backend: "dir", Path: filepath.Join(r.Root, "second")}
	if _, err := r.Pools.Make(t.Context(), "second", rec); err != nil {
		t.Fatal(err)
	}
	p, _ := r.Pools.ByName("second")
	d := dataset.Dataset{ID: uuid.New(), Volume: "db", State: dataset.StateReady, Epoch: 1}
	if _, err := p.Storage.Create(t.Context(), d); err != nil {
		t.Fatal(err)
	}
	r.LoseStore(true)
	r.Link.Cut()
	if _, _, err := r.AdoptPool(t.Context(), rec.Path, false); err == nil {
		t.Fatal("adopted without control")
	}
	r.Link.Mend()
	r.Restart()
	if p, _ := r.Pools.ByName("second"); p == nil {
		t.Fatal("the pool is not known")
	} else if _, err := p.Storage.Stat(t.Context(), d.ID); err != nil {
		t.Error(err)
	}
}
