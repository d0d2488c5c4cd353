package pooladmin_test

import (
	"context"
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"reflect"
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
	"github.com/droverhq/drover/control/api"
	"github.com/droverhq/drover/dataset"
	"github.com/droverhq/drover/internal/run"
	"github.com/droverhq/drover/internal/scratch"
)

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
	if err := os.MkdirAll(filepath.Dir(mount), 0o700); err != nil {
		t.Fatal(err)
	}
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
	if err != nil {
		t.Fatal(err)
	}
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
	if err := os.MkdirAll(filepath.Dir(r.Pools.ImageMount("disk")), 0o700); err != nil {
		t.Fatal(err)
	}
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
		if err := os.Symlink(device, path); err != nil {
			t.Fatal(err)
		}
		return path
	}
	if err := os.MkdirAll(filepath.Dir(r.Pools.ImageMount("x")), 0o700); err != nil {
		t.Fatal(err)
	}
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
