package agent

import (
	"context"
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"

	"github.com/droverhq/drover/backends"
	"github.com/droverhq/drover/backends/dir"
	"github.com/droverhq/drover/control/api"
	"github.com/droverhq/drover/dataset"
)

// former says that it made a pool of devices, where it was made at a path.
type former struct {
	dir.Backend
	got []backends.Config
}

func (*former) Name() string                  { return "former" }
func (*former) PathOf(_, mount string) string { return mount + "-of" }

func (f *former) Open(ctx context.Context, cfg backends.Config) (backends.Pool, error) {
	keys := cfg.Keys
	cfg.Keys = nil
	f.got = append(f.got, cfg)
	cfg.Devices, cfg.Keys = nil, keys
	return f.Backend.Open(ctx, cfg)
}

// plain takes no devices.
type plain struct{ backends.Kind }

// A pool of devices lies where its backend says, is opened with them again, and bears them
// for people. One of a backend that takes none is refused.
func TestPoolOfDevices(t *testing.T) {
	f := &former{}
	r := newRig(t, func(c *Config) { c.Backends = backends.NewRegistry(plain{dir.Backend{}}, f) })
	ctx := t.Context()
	devices := []string{"/dev/a", "/dev/b"}
	mount := r.pools.imageMount("disk")
	if err := os.MkdirAll(filepath.Dir(mount), 0o700); err != nil {
		t.Fatal(err)
	}
	_, err := r.CreatePool(ctx, api.NewPool{Name: "disk", Backend: "dir", Devices: devices})
	if !errors.Is(err, dataset.ErrUnsupported) || !strings.Contains(err.Error(), "have: former") {
		t.Errorf("by a backend that takes none: %v", err)
	}
	if _, err := r.CreatePool(ctx, api.NewPool{Name: "disk", Backend: "former", Image: "5GiB", Devices: devices}); !errors.Is(err, dataset.ErrInvalid) {
		t.Errorf("in an image as well: %v", err)
	}
	if _, err := r.CreatePool(ctx, api.NewPool{Name: "disk", Backend: "former", Devices: []string{"dev/a"}}); !errors.Is(err, dataset.ErrInvalid) {
		t.Errorf("of a relative path: %v", err)
	}
	if len(f.got) > 0 {
		t.Fatalf("%+v was opened", f.got)
	}
	made, err := r.CreatePool(ctx, api.NewPool{Name: "disk", Backend: "former", Devices: devices})
	if err != nil {
		t.Fatal(err)
	}
	want := backends.Config{ID: made.ID, Name: "disk", Path: mount + "-of", Mount: mount, Devices: devices, Make: true}
	if !reflect.DeepEqual(f.got, []backends.Config{want}) || made.Path != want.Path || !reflect.DeepEqual(made.Devices, devices) {
		t.Errorf("made %+v by %+v", made, f.got)
	}
	f.got, want.Make = nil, false
	r.restart()
	if !reflect.DeepEqual(f.got, []backends.Config{want}) {
		t.Errorf("opened again by %+v", f.got)
	}
	list, err := r.link.Service.Pools(ctx)
	if text, _ := json.Marshal(list); err != nil || !strings.Contains(string(text), `"devices":["/dev/a","/dev/b"]`) {
		t.Errorf("control has %s, %v", text, err)
	}
}
