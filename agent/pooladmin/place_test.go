package pooladmin_test

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/droverhq/drover/agent"
	"github.com/droverhq/drover/agent/agenttest"
	"github.com/droverhq/drover/backends"
	"github.com/droverhq/drover/backends/dir"
	"github.com/droverhq/drover/backends/loop"
	"github.com/droverhq/drover/control/api"
	"github.com/droverhq/drover/dataset"
	"github.com/droverhq/drover/internal/run"
)

// A bind mount of a folder is treated like the folder: a folder of another pool, of an engine or of the mounts does
// not become a pool by another path. A folder that nobody uses does.
func TestPoolThroughBindMount(t *testing.T) {
	r := agenttest.New(t)
	pool, ok := r.Pools.ByName("default")
	if !ok {
		t.Fatal("no pool")
	}
	root, err := filepath.EvalSymlinks(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	engine, free := filepath.Join(root, "engine"), filepath.Join(root, "free")
	for _, dir := range []string{filepath.Join(engine, "volumes"), free, filepath.Join(r.MountRoot(), "some")} {
		if err := os.MkdirAll(dir, 0o700); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.WriteFile(filepath.Join(engine, "engine-id"), []byte("8b2d"), 0o600); err != nil {
		t.Fatal(err)
	}
	at := filepath.Join(root, "bound")
	if err := os.Mkdir(at, 0o700); err != nil {
		t.Fatal(err)
	}
	bound := func(from string, then func()) {
		if err := unix.Mount(from, at, "", unix.MS_BIND, ""); err != nil {
			t.Fatal(err)
		}
		then()
		if err := unix.Unmount(at, 0); err != nil {
			t.Fatal(err)
		}
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
		if _, err := r.CreatePool(t.Context(), second); err != nil {
			t.Error(err)
		}
	})
}

// The image of an open pool is recognized as that pool, by whichever path, and the error does not list every backend.
func TestAdoptImageOfOpenPool(t *testing.T) {
	r := agenttest.New(t, func(c *agent.Config) { c.Backends = backends.NewRegistry(dir.Backend{}, loop.New(&run.System{})) })
	image := filepath.Join(r.Root, "images.img")
	if err := os.MkdirAll(filepath.Dir(r.Pools.ImageMount("images")), 0o700); err != nil {
		t.Fatal(err)
	}
	if _, err := r.CreatePool(t.Context(), api.NewPool{Name: "images", Backend: "loop", Path: image, Image: "600MiB"}); err != nil {
		t.Fatal(err)
	}
	hard, soft := filepath.Join(r.Root, "hard"), filepath.Join(r.Root, "soft")
	if err := errors.Join(os.Link(image, hard), os.Symlink(image, soft)); err != nil {
		t.Fatal(err)
	}
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
		if err := os.Rename(path, path+".away"); err != nil {
			t.Fatal(err)
		}
	}
	for _, when := range []string{"while it serves", "at a start"} {
		found, err := r.Doctor(t.Context())
		if err != nil {
			t.Fatal(err)
		}
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
