package pooladmin_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/uuid"
	"golang.org/x/sys/unix"

	"github.com/droverhq/drover/agent"
	"github.com/droverhq/drover/agent/agenttest"
	"github.com/droverhq/drover/agent/pool"
	"github.com/droverhq/drover/backends"
	"github.com/droverhq/drover/backends/btrfs"
	"github.com/droverhq/drover/backends/dir"
	"github.com/droverhq/drover/backends/loop"
	"github.com/droverhq/drover/control/api"
	"github.com/droverhq/drover/dataset"
	"github.com/droverhq/drover/internal/run"
	"github.com/droverhq/drover/internal/scratch"
	"github.com/droverhq/drover/test/assert"
	"github.com/droverhq/drover/test/require"
)

// If several pools are made at once with one name, only one is made: the others would be unknown after a restart.
func TestConcurrentCreatesOfOnePool(t *testing.T) {
	r := agenttest.New(t)
	errs := make([]error, 8)
	var all sync.WaitGroup
	for i := range errs {
		all.Go(func() {
			_, errs[i] = r.CreatePool(t.Context(), api.NewPool{Name: "more", Backend: "dir", Path: filepath.Join(r.Root, fmt.Sprint("more", i))})
		})
	}
	all.Wait()
	made := 0
	for _, err := range errs {
		if err == nil {
			made++
		} else if !errors.Is(err, dataset.ErrExists) {
			t.Error(err)
		}
	}
	if made != 1 || len(r.Pools.All()) != 2 {
		t.Errorf("%d made, %d known", made, len(r.Pools.All()))
	}
}

// The image of a pool is not mounted over another pool, and no pool is made in the place of an image.
func TestPoolsOverlap(t *testing.T) {
	image := pool.Record{Path: "/disk/x.img", Mount: "/root/pools/x"}
	for _, c := range []struct {
		other pool.Record
		want  bool
	}{
		{pool.Record{Path: "/root/pools/x"}, true}, {pool.Record{Path: "/root/pools"}, true}, {pool.Record{Path: "/disk"}, true},
		{pool.Record{Path: "/disk/x"}, false}, {pool.Record{Path: "/disk/y.img", Mount: "/root/pools/y"}, false},
		{pool.Record{Path: "/root/pools/x/y.img", Mount: "/root/pools/y"}, true},
	} {
		if pool.Overlap(image, c.other) != c.want || pool.Overlap(c.other, image) != c.want {
			t.Errorf("%+v and %+v: want %t", image, c.other, c.want)
		}
	}
}

// An error names a pool once, whichever function names it first.
func TestErrorsNameAPoolOnce(t *testing.T) {
	for given, want := range map[string][3]string{
		"no disk":              {"pool fast: no disk", "no disk", "pool fast is offline: no disk"},
		"pool fast: no disk":   {"pool fast: no disk", "no disk", "pool fast is offline: no disk"},
		"pool faster: no disk": {"pool fast: pool faster: no disk", "pool faster: no disk", "pool fast is offline: pool faster: no disk"},
	} {
		err := dataset.Errorf(dataset.ErrNoSpace, "%s", given)
		made := pool.WithPoolName("fast", err)
		if made.Error() != want[0] || !errors.Is(made, dataset.ErrNoSpace) {
			t.Errorf("%q: %q, want %q", given, made, want[0])
		}
		why := pool.WithoutPoolName("fast", err)
		if off := pool.OfflineError("fast", why); why != want[1] || off.Error() != want[2] || !errors.Is(off, dataset.ErrOffline) {
			t.Errorf("%q: %q and %q, want %q", given, why, off, want[1:])
		}
	}
}

// A copy of a pool is not served beside it. The refusal keeps the lock of the pool, and none of the copy.
func TestRefusedCopyOfPoolKeepsNoLock(t *testing.T) {
	r := agenttest.New(t)
	path, twin := filepath.Join(r.Root, "plain"), filepath.Join(r.Root, "twin")
	_, err := r.CreatePool(t.Context(), api.NewPool{Name: "plain", Backend: "dir", Path: path})
	require.NoError(t, err)
	require.NoError(t, os.CopyFS(twin, os.DirFS(path)))
	before := len(r.Pools.PoolLocks.Sockets)
	_, err = r.Pools.Make(t.Context(), "twin", pool.Record{Backend: "dir", Path: twin})
	if !errors.Is(err, dataset.ErrExists) {
		t.Fatalf("got %v, want an error that the pool exists", err)
	}
	if after := len(r.Pools.PoolLocks.Sockets); after != before {
		t.Errorf("%d pools are locked, and %d were before", after, before)
	}
}

// A bind mount of a folder is treated like the folder: a folder of another pool, of an engine or of the mounts does
// not become a pool by another path. A folder that nobody uses does.
func TestPoolThroughBindMount(t *testing.T) {
	r := agenttest.New(t)
	pool, ok := r.Pools.ByName("default")
	if !ok {
		t.Fatal("no pool")
	}
	root, err := filepath.EvalSymlinks(t.TempDir())
	require.NoError(t, err)
	engine, free := filepath.Join(root, "engine"), filepath.Join(root, "free")
	for _, dir := range []string{filepath.Join(engine, "volumes"), free, filepath.Join(r.MountRoot(), "some")} {
		require.NoError(t, os.MkdirAll(dir, 0o700))
	}
	require.NoError(t, os.WriteFile(filepath.Join(engine, "engine-id"), []byte("8b2d"), 0o600))
	at := filepath.Join(root, "bound")
	require.NoError(t, os.Mkdir(at, 0o700))
	bound := func(from string, then func()) {
		require.NoError(t, unix.Mount(from, at, "", unix.MS_BIND, ""))
		then()
		require.NoError(t, unix.Unmount(at, 0))
	}
	second := api.NewPool{Name: "second", Backend: "dir"}
	for from, says := range map[string]string{
		filepath.Join(pool.Record.Path, "incoming"): "is inside pool " + pool.ID.String(),
		filepath.Join(engine, "volumes"):            "is inside " + engine + ", where a container engine",
		filepath.Join(r.MountRoot(), "some"):        ", where volumes are mounted",
	} {
		bound(from, func() {
			for _, second.Path = range []string{at, filepath.Join(at, "new")} {
				_, err := r.CreatePool(t.Context(), second)
				if !errors.Is(err, dataset.ErrInvalid) || !strings.Contains(err.Error(), says) || !strings.Contains(err.Error(), "seen at "+second.Path+" as well") {
					t.Errorf("%s at %s: %v", from, second.Path, err)
				}
			}
		})
	}
	bound(free, func() {
		second.Path = filepath.Join(at, "new")
		_, err := r.CreatePool(t.Context(), second)
		assert.NoError(t, err)
	})
}

// The image of an open pool is recognized as that pool, by whichever path, and the error does not list every backend.
func TestAdoptImageOfOpenPool(t *testing.T) {
	r := agenttest.New(t, func(c *agent.Config) { c.Backends = backends.NewRegistry(dir.Backend{}, loop.New(&run.System{})) })
	image := filepath.Join(r.Root, "images.img")
	require.NoError(t, os.MkdirAll(filepath.Dir(r.Pools.ImageMount("images")), 0o700))
	if _, err := r.CreatePool(t.Context(), api.NewPool{Name: "images", Backend: "loop", Path: image, Image: "600MiB"}); err != nil {
		t.Fatal(err)
	}
	hard, soft := filepath.Join(r.Root, "hard"), filepath.Join(r.Root, "soft")
	require.NoError(t, errors.Join(os.Link(image, hard), os.Symlink(image, soft)))
	for _, path := range []string{image, hard, soft} {
		if p, _, err := r.AdoptPool(t.Context(), path, false); err != nil || p.Name != "images" {
			t.Errorf("%s: %+v, %v", path, p, err)
		}
	}
	_, _, err := r.AdoptPool(t.Context(), r.Pools.ImageMount("images"), false)
	if !errors.Is(err, dataset.ErrExists) || !strings.HasPrefix(err.Error(), "it is already pool images of this node, at "+image) {
		t.Error(err)
	}
}

// The adoption of a pool that this node has records what the store does not know. A dry run records nothing.
func TestAdoptionOfOwnPoolRestoresRecords(t *testing.T) {
	r := agenttest.New(t)
	d := r.NewVolume("db")
	r.LoseStore(true)
	for _, dry := range []bool{true, false, true} {
		_, known := r.Cache.Dataset(d.ID)
		p, back, err := r.AdoptPool(t.Context(), filepath.Join(r.Root, "pool"), dry)
		if err != nil || p.Name != "default" || len(back) != 1 || back[0].Dataset != d.ID || (back[0].Action == "known") != known {
			t.Errorf("dry run %t, known %t: %+v, %+v, %v", dry, known, p, back, err)
		}
		if !dry {
			agenttest.Await(t, func() bool { _, known := r.Cache.Dataset(d.ID); return known })
		}
	}
	r.MustMount("db", "one")
	r.MustUnmount("db", "one")
}

// Doctor says how to bring back a pool whose disk is missing, whether that was found at a start or later.
func TestDoctorHasRemedyForOfflinePool(t *testing.T) {
	r := agenttest.New(t)
	at := filepath.Join(r.Root, "second")
	if _, err := r.CreatePool(t.Context(), api.NewPool{Name: "second", Backend: "dir", Path: at}); err != nil {
		t.Fatal(err)
	}
	for _, path := range []string{at, filepath.Join(r.Root, "pool")} {
		require.NoError(t, os.Rename(path, path+".away"))
	}
	for _, when := range []string{"while it serves", "at a start"} {
		found, err := r.Doctor(t.Context())
		require.NoError(t, err)
		mends := map[string]string{}
		for _, f := range found {
			if strings.Contains(f.Text, "is offline") {
				mends[f.Subject] = f.Fix
			}
		}
		for _, part := range []string{"mount its disk", "drover pool adopt PATH", "drover pool rm second --forget --dry-run"} {
			if !strings.Contains(mends["pool second"], part) {
				t.Errorf("%s: %q is not in %q", when, part, mends)
			}
		}
		// The pool is in drover.yaml.
		if mend := mends["pool default"]; !strings.Contains(mend, "drover.yaml") || strings.Contains(mend, "adopt") {
			t.Errorf("%s: of a pool of drover.yaml: %q", when, mend)
		}
		r.Restart()
	}
}

// ended returns what f returned, and fails the test if f does not return. In that case a writer opens the FIFO, so
// that f does not wait forever.
func ended(t *testing.T, fifo string, f func() error) error {
	t.Helper()
	done := make(chan error, 1)
	go func() { done <- f() }()
	for late := time.After(30 * time.Second); ; {
		select {
		case err := <-done:
			return err
		case <-late:
			t.Errorf("waits for a writer of %s", fifo)
			late = time.After(10 * time.Millisecond)
			if w, err := os.OpenFile(fifo, os.O_WRONLY|unix.O_NONBLOCK, 0); err == nil {
				w.Close()
			}
		}
	}
}

// A user puts a FIFO in a folder, in the place of a pool's marker. Neither the creation of a pool below that folder
// nor the adoption of the folder waits for it.
func TestPoolMarkerIsAFIFO(t *testing.T) {
	r := agenttest.New(t)
	home := t.TempDir()
	fifo := filepath.Join(home, "pool.json")
	require.NoError(t, unix.Mkfifo(fifo, 0o644))
	err := ended(t, fifo, func() error {
		_, err := r.CreatePool(t.Context(), api.NewPool{Name: "below", Backend: "dir", Path: filepath.Join(home, "below")})
		return err
	})
	assert.NoError(t, err)
	err = ended(t, fifo, func() error {
		_, _, err := r.AdoptPool(t.Context(), home, false)
		return err
	})
	assert.ErrorIs(t, err, dataset.ErrInvalid)
	err = ended(t, fifo, func() error {
		_, _, err := r.AdoptPool(t.Context(), fifo, false)
		return err
	})
	assert.ErrorIs(t, err, dataset.ErrInvalid)
}

// former reports a pool on devices that was in fact made at a path.
type former struct {
	dir.Backend
	got []backends.Config
}

func (*former) Name() string { return "former" }

func (*former) PathOf(_, mount string) string { return mount + "-of" }

func (f *former) Open(ctx context.Context, cfg backends.Config) (backends.Pool, error) {
	keys := cfg.Keys
	cfg.Keys = nil
	f.got = append(f.got, cfg)
	cfg.Devices, cfg.Keys = nil, keys
	return f.Backend.Open(ctx, cfg)
}

// plain is a backend that takes no devices.
type plain struct{ backends.Kind }

// A pool on devices is located where its backend says, is reopened with its devices, and is shown with their names. A
// pool on devices of a backend that takes none is refused.
func TestPoolOnDevices(t *testing.T) {
	f := &former{}
	r := agenttest.New(t, func(c *agent.Config) { c.Backends = backends.NewRegistry(plain{dir.Backend{}}, f) })
	ctx := t.Context()
	devices := []string{"/dev/a", "/dev/b"}
	mount := r.Pools.ImageMount("disk")
	require.NoError(t, os.MkdirAll(filepath.Dir(mount), 0o700))
	_, err := r.CreatePool(ctx, api.NewPool{Name: "disk", Backend: "dir", Devices: devices})
	if !errors.Is(err, dataset.ErrUnsupported) || !strings.Contains(err.Error(), "available: former") {
		t.Errorf("by a backend that takes none: %v", err)
	}
	if _, err := r.CreatePool(ctx, api.NewPool{Name: "disk", Backend: "former", Image: "5GiB", Devices: devices}); !errors.Is(err, dataset.ErrInvalid) {
		t.Errorf("in an image as well: %v", err)
	}
	if _, err := r.CreatePool(ctx, api.NewPool{Name: "disk", Backend: "former", Devices: []string{"dev/a"}}); !errors.Is(err, dataset.ErrInvalid) {
		t.Errorf("of a relative path: %v", err)
	}
	for path, want := range map[string]string{"srv/x": "such as /srv/x", "/srv/x/../y/": "such as /srv/y", "..": "such as /"} {
		if _, err := r.CreatePool(ctx, api.NewPool{Name: "disk", Backend: "dir", Path: path}); !errors.Is(err, dataset.ErrInvalid) || !strings.HasSuffix(err.Error(), want) {
			t.Errorf("at %s: %v", path, err)
		}
	}
	if len(f.got) > 0 {
		t.Fatalf("%+v was opened", f.got)
	}
	made, err := r.CreatePool(ctx, api.NewPool{Name: "disk", Backend: "former", Devices: devices})
	require.NoError(t, err)
	want := backends.Config{
		ID: made.ID, Name: "disk", Path: mount + "-of", Mount: mount, MountRoot: r.MountRoot(), Devices: devices,
		Make: true,
	}
	if !reflect.DeepEqual(f.got, []backends.Config{want}) || made.Path != want.Path || !reflect.DeepEqual(made.Devices, devices) {
		t.Errorf("made %+v by %+v", made, f.got)
	}
	f.got, want.Make = nil, false
	r.Restart()
	if !reflect.DeepEqual(f.got, []backends.Config{want}) {
		t.Errorf("opened again by %+v", f.got)
	}
	list, err := r.Link.Service.Pools(ctx)
	if text, _ := json.Marshal(list); err != nil || !strings.Contains(string(text), `"devices":["/dev/a","/dev/b"]`) {
		t.Errorf("control has %s, %v", text, err)
	}
}

// halting is former, but it crashes after it made a pool and before the pool is recorded.
type halting struct {
	former
	dies bool
}

func (h *halting) Open(ctx context.Context, cfg backends.Config) (backends.Pool, error) {
	p, err := h.former.Open(ctx, cfg)
	if err == nil && h.dies && cfg.Make {
		return nil, errors.Join(errors.New("it died"), p.Close())
	}
	return p, err
}

// An interrupted creation of a pool is completed by the same command, also after a restart. It uses the UUID that the
// disks may already have. Another command makes another pool.
func TestInterruptedCreateIsResumedBySameCommand(t *testing.T) {
	h := &halting{dies: true}
	r := agenttest.New(t, func(c *agent.Config) { c.Backends = backends.NewRegistry(dir.Backend{}, h) })
	ctx := t.Context()
	require.NoError(t, os.MkdirAll(filepath.Dir(r.Pools.ImageMount("disk")), 0o700))
	disk := api.NewPool{Name: "disk", Backend: "former", Devices: []string{"/dev/a", "/dev/b"}}
	if _, err := r.CreatePool(ctx, disk); err == nil {
		t.Fatal("it did not die")
	}
	begun := h.got[0].ID
	other := disk
	other.Name, other.Path = "other", filepath.Join(r.Root, "other")
	if _, err := r.CreatePool(ctx, other); err == nil || h.got[1].ID == begun {
		t.Errorf("a pool of another name: %v, %+v", err, h.got[1])
	}
	r.Restart()
	h.dies = false
	made, err := r.CreatePool(ctx, disk)
	if err != nil || made.ID != begun {
		t.Errorf("made %s, not %s: %v", made.ID, begun, err)
	}
	h.got = nil
	other.Devices = []string{"/dev/c"}
	if made, err = r.CreatePool(ctx, other); !errors.Is(err, dataset.ErrExists) || h.got[0].ID == uuid.Nil {
		t.Errorf("of other devices, where the first lies: %v, %v", made, err)
	}
	if err := r.DB.Each(ctx, pool.PendingPrefix+"disk", func(string, []byte) error { return errors.New("kept") }); err != nil {
		t.Errorf("of what was made: %v", err)
	}
}

// A device that belongs to a pool is refused for another pool, whatever path names it, and the error names the first
// pool. A device that is given twice is refused too.
func TestDeviceOfOtherPoolIsRefused(t *testing.T) {
	r := agenttest.New(t, func(c *agent.Config) {
		c.Backends = backends.NewRegistry(dir.Backend{}, loop.New(&run.System{}), btrfs.New())
	})
	link := func(device string) string {
		path := filepath.Join(t.TempDir(), "by-id")
		require.NoError(t, os.Symlink(device, path))
		return path
	}
	require.NoError(t, os.MkdirAll(filepath.Dir(r.Pools.ImageMount("x")), 0o700))
	for _, kind := range []string{"dir", "loop", "btrfs"} {
		a, b := scratch.Disk(t, 1<<30), scratch.Disk(t, 1<<30)
		_, err := r.CreatePool(t.Context(), api.NewPool{Name: "twice", Backend: kind, Devices: []string{b, link(b)}})
		if !errors.Is(err, dataset.ErrInvalid) || !strings.Contains(err.Error(), "the same device: pass it once") {
			t.Errorf("%s: twice: %v", kind, err)
		}
		if _, err := r.CreatePool(t.Context(), api.NewPool{Name: "of-" + kind, Backend: kind, Devices: []string{a}}); err != nil {
			t.Fatal(err)
		}
		if p, _, err := r.AdoptPool(t.Context(), a, false); err != nil || p.Name != "of-"+kind {
			t.Errorf("%s: adopt: %+v, %v", kind, p, err)
		}
		if _, _, err := r.AdoptPool(t.Context(), b, false); err == nil || err.Error() != "adopt "+b+": the device is empty (drover pool create NAME --backend KIND --device "+b+" creates a pool on it)" {
			t.Errorf("%s: an empty disk was adopted: %v", kind, err)
		}
		for _, device := range []string{a, b} {
			left := r.Pools.ImageMount(filepath.Base(device))
			if _, err := os.Lstat(left); err == nil {
				t.Errorf("%s is left", left)
			}
		}
		for _, other := range []string{"dir", "btrfs"} {
			for _, device := range []string{a, link(a)} {
				_, err := r.CreatePool(t.Context(), api.NewPool{Name: "new", Backend: other, Devices: []string{device}})
				if want := "device " + device + " is part of pool of-" + kind; err == nil || !strings.Contains(err.Error(), want) {
					t.Errorf("%s over %s: %v, want %s", other, kind, err, want)
				}
			}
		}
	}
}

// The next start would restore a policy of drover.yaml, so it cannot be changed otherwise.
func TestPolicyOfConfigurationStays(t *testing.T) {
	r := agenttest.New(t)
	r.Pools.Configured[0].Overcommit = 2
	if _, err := r.SetPool(t.Context(), r.Pools.Configured[0].Name, api.PoolPolicy{Overcommit: 3}); !errors.Is(err, dataset.ErrConflict) {
		t.Error(err)
	}
}
